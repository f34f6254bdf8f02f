"""A classifier over whole fields in LiteRT, see `dense`: exported beside it, or converted anew.

The export, `model.fields.litert`, is of one size of field. It holds the weights once more, and
saves the conversion, which takes ten seconds and TensorFlow's memory.
"""

from pathlib import Path

from pcam_tf.errors import InputError, first_line
from pcam_tf.files import check_no_pointer
from pcam_tf.models import engines, model_files
from pcam_tf.models.engines import Engine


def export_file(model: str | Path) -> Path:
    """Return where the export for fields of a model lies."""
    return model_files.model_file(model).with_suffix(".fields.litert")


def load(model: str | Path, cells: int, stride_px: int) -> tuple[Engine, int]:
    """Return what predicts fields, and the side of a field in pixels.

    Args:
        model: a `.keras` file or the folder of a run. If it has an export of such fields, Keras is
            not needed.
        cells: cells a side of a field.
        stride_px: side of a cell.

    Returns:
        An engine from fields, (n, side, side, 3), to probabilities, (n, cells, cells, outputs), and
        that side; see `dense.build`.

    Raises:
        InputError: there is no such model, or its network cannot predict fields.
    """
    path = export_file(model)
    if path.is_file():
        check_no_pointer(path)
        try:
            about, content = engines.read_archive(path)
            if about == _described(model, about["field_px"], cells, stride_px):
                return engines.LiteRT(content, file=str(path)), about["field_px"]
        except ImportError as error:
            raise InputError(
                f"LiteRT cannot be imported ({error}): run `python -m pip install ai-edge-litert`."
            ) from error
        except Exception as error:  # a damaged archive raises whatever its reader meets
            raise InputError(
                f"{path} is damaged: delete it; what it holds is then made when it is needed."
            ) from error
    fields, field_px = _fields(model, cells, stride_px)
    # A slide has thousands of cells, for which a conversion pays.
    return engines.fastest(fields, cells**2 * 10), field_px


def export(model: str | Path, cells: int, stride_px: int, *, small: bool = False) -> Path:
    """Write the export of a classifier for fields beside it, and return its path.

    Args:
        model, cells, stride_px: as in `load`.
        small: see `engines.export`.

    Raises:
        InputError: as `load` does, or the file cannot be written.
    """
    fields, field_px = _fields(model, cells, stride_px)
    try:
        content = engines.content_of(fields, small=small)
    except Exception as error:  # the converter's and the interpreter's errors differ by model
        raise InputError(
            f"{model} cannot be exported for fields ({first_line(error)}): slides are then read by "
            "TensorFlow."
        ) from error
    path = export_file(model)
    engines.write_archive(path, _described(model, field_px, cells, stride_px), content)
    return path


def _fields(model, cells, stride_px):
    from pcam_tf.models import classifier, dense  # Keras takes seconds

    loaded = classifier.load(model)
    field_px = dense.field_px(loaded, cells, stride_px)
    return dense.build(loaded, field_px, cells, stride_px), field_px


def _described(model, field_px, cells, stride_px):
    return {
        "model_sha256": model_files.digest(model),
        "field_px": field_px,
        "cells": cells,
        "stride_px": stride_px,
    }
