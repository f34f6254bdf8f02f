"""What runs a classifier: LiteRT, several times as fast and without TensorFlow, or Keras itself.

A model is exported once, to a file beside its `.keras` file: `model.litert`, a zip archive of
`model.tflite` and of `export.json`, which holds the SHA-256 of the `.keras` file. So an export of
another model, or of an earlier epoch, is noticed.
"""

import concurrent.futures
import json
import os
import queue
import warnings
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np

from pcam_tf.errors import InputError, first_line, unknown
from pcam_tf.files import check_no_pointer, written_whole
from pcam_tf.models import model_files, outputs
from pcam_tf.task import PCAM, Task

ENGINES = ("litert", "tensorflow")
# More patches at once do not fit the processor's cache, and are read no faster.
_MOST_AT_ONCE = 8
# Each holds the weights anew, 15 MB in the shipped model.
_MOST_WORKERS = 8
# By which an export's probabilities may differ from Keras's.
TOLERANCE = 1e-3
_LARGE_PX = 512
# From so many patches on, what LiteRT saves is more than the conversion takes.
_WORTH_CONVERTING = 3000


class Engine(Protocol):
    """What predicts: a classifier of Keras is one, and so is `LiteRT`."""

    task: Task

    def predict_on_batch(self, patches: np.ndarray) -> np.ndarray:
        """Return what the model returns for patches, float32 (n, side, side, 3), unchecked."""


class LiteRT:
    """A model in LiteRT, on all cores that this process may use; any thread may call it."""

    def __init__(self, content: bytes, task: Task | None = None, file: str | None = None):
        """Prepare one interpreter a core.

        Interpreters of one thread each, with patches of their own, are faster than one with
        several threads, which wait for each other at every layer.

        Args:
            content: a model in TFLite's format, from patches to probabilities, or to features.
            task: that the probabilities are of; None for features.
            file: that the model comes from, for messages.

        Raises:
            ImportError: LiteRT is not installed.
            ValueError, RuntimeError: LiteRT cannot run the model.
        """
        # Not above: TensorFlow's users do without it.
        from ai_edge_litert.interpreter import Interpreter

        # Lacking on macOS and Windows.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        self._workers = min(cores, _MOST_WORKERS)
        # Last in, first out: what is used again is still in the processor's cache.
        self._idle = queue.LifoQueue()
        for _ in range(self._workers):
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
            put, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
            self._idle.put((interpreter, put["index"], got["index"]))
        self.task, self.file = task, file
        self._patch_shape, self._outputs = tuple(put["shape"][1:]), got["shape"][-1]
        self._pool = concurrent.futures.ThreadPoolExecutor(self._workers, "litert")

    def predict_on_batch(self, patches: np.ndarray) -> np.ndarray:
        """Return the probabilities, or the features, of patches, float32 (n, outputs).

        Args:
            patches: (n, side, side, 3), RGB 0..255, any n.

        Raises:
            InputError: patches of another shape.
        """
        if patches.ndim != 4 or patches.shape[1:] != self._patch_shape:
            expected = ", ".join(map(str, self._patch_shape))
            raise InputError(f"patches have shape {patches.shape}: give (n, {expected}).")
        if not len(patches):
            return np.zeros((0, self._outputs), "float32")
        parts = max(-(-len(patches) // _MOST_AT_ONCE), min(self._workers, len(patches)))
        if parts == 1:
            return self._run(patches)
        return np.concatenate(list(self._pool.map(self._run, np.array_split(patches, parts))))

    def _run(self, patches):
        # An interpreter serves one thread at a time.
        interpreter, put, got = found = self._idle.get()
        try:
            if len(patches) != interpreter.tensor(put)().shape[0]:
                interpreter.resize_tensor_input(put, patches.shape)  # takes 0.1 ms
                interpreter.allocate_tensors()
            interpreter.set_tensor(put, np.ascontiguousarray(patches, "float32"))
            interpreter.invoke()
            return interpreter.get_tensor(got)
        finally:
            self._idle.put(found)


def export_file(model: Path) -> Path:
    """Return where the export of a `.keras` file lies."""
    return model.with_suffix(".litert")


def check_name(engine: str | None) -> None:
    """Refuse what is no name of `ENGINES`; None is fine.

    Raises:
        InputError: there is no such engine.
    """
    if engine not in (None, *ENGINES):
        raise unknown("engine", engine, ENGINES)


def load(model: str | Path | None = None, engine: str | None = None) -> Engine:
    """Load a classifier into an engine.

    Args:
        model: a `.keras` file or the folder of a run; without it, the model that is shipped.
        engine: a name of `ENGINES`. Without it, LiteRT where the model has an export; if that
            cannot be used, a warning says why, and TensorFlow predicts.

    Raises:
        InputError: no such engine or model, or one that cannot be used.
    """
    check_name(engine)
    path = model_files.model_file(model or model_files.SHIPPED_MODEL)
    if engine == "litert" or (engine is None and export_file(path).is_file()):
        try:
            return _load_export(path)
        except InputError as error:
            if engine:
                raise
            warnings.warn(f"{error} Meanwhile TensorFlow predicts, slowly.", stacklevel=2)
    # Not above: importing Keras takes seconds.
    from pcam_tf.models import classifier

    return classifier.load(path)


def task_of(engine: Engine) -> Task:
    """Return the task of what `load` returned; PatchCamelyon's where an engine states none."""
    return getattr(engine, "task", None) or PCAM


def probabilities(engine: Engine, patches: np.ndarray) -> np.ndarray:
    """Return the probabilities of patches, (n, outputs): every prediction passes through here.

    Args:
        engine: a classifier, see `load`.
        patches: (n, side, side, 3), RGB 0..255.

    Raises:
        InputError: the model returns something else, such as logits or NaN; see
            `outputs.checked`.
    """
    values = engine.predict_on_batch(np.asarray(patches, "float32"))
    return outputs.checked(values, len(patches), task_of(engine), described(engine))


def described(engine: Engine) -> str:
    """Return what to call a model in a message: its file, or its name."""
    return getattr(engine, "file", None) or f"the model {getattr(engine, 'name', 'given')!r}"


def name_of(engine: Engine) -> str:
    """Return the name of `ENGINES` of what `load` returned."""
    return "litert" if isinstance(engine, LiteRT) else "tensorflow"


def _load_export(path):
    export, anew = export_file(path), f"run `python -m pcam_tf export --model {path}`."
    if not export.is_file():
        raise InputError(f"{path} has no export for LiteRT: {anew}")
    check_no_pointer(export)
    try:
        about, content = read_archive(export)
        exported_from = about["model_sha256"]
    except Exception as error:  # a damaged archive raises whatever its reader meets
        raise InputError(f"{export} is damaged: {anew}") from error
    if exported_from != model_files.digest(path):
        raise InputError(f"{export} is of another model than {path}: {anew}")
    try:
        return LiteRT(content, model_files.task_of(path), str(path))
    except ImportError as error:
        raise InputError(
            f"LiteRT cannot be imported ({error}): run `python -m pip install ai-edge-litert`."
        ) from error
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"LiteRT cannot run {export} ({reason}): {anew}") from error


def export(model: str | Path | None = None, *, small: bool = False) -> Path:
    """Write the export of a classifier for LiteRT beside it, once it is seen to predict the same.

    Args:
        model: a `.keras` file or the folder of a run; without it, the model that is shipped.
        small: round weights to 16 significant bits, see `classifier.save_small`: 60 % of the size.

    Returns:
        The file that was written.

    Raises:
        InputError: no such model, it returns no probabilities, LiteRT cannot run it as Keras
            does, or the export cannot be written.
    """
    from pcam_tf.models import classifier

    path = model_files.model_file(model or model_files.SHIPPED_MODEL)
    digest, loaded = model_files.digest(path), classifier.load(path)
    probabilities(loaded, probe(loaded.input_shape[1]))
    try:
        content = content_of(loaded, small=small)
    except Exception as error:  # the converter's and the interpreter's errors differ by model
        reason = first_line(error)
        raise InputError(
            f"{path} cannot be exported for LiteRT ({reason}): predict with --engine tensorflow."
        ) from error
    write_archive(export_file(path), {"model_sha256": digest}, content)
    return export_file(path)


def write_archive(path: Path, about: dict, content: bytes) -> None:
    """Write an export: a zip archive of `export.json` and of `model.tflite`.

    Args:
        path: of the archive.
        about: what `export.json` says.
        content: of a model in TFLite's format.
    """
    with (
        written_whole(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name, part in (
            ("export.json", json.dumps(about)),
            ("model.tflite", _planes(content)),
        ):
            # With the archive's default date: the same model gives the same file.
            archive.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)


def read_archive(path: Path) -> tuple[dict, bytes]:
    """Return what `write_archive` wrote; a damaged one raises whatever its reader meets."""
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("export.json"))
        return about, _from_planes(archive.read("model.tflite"))


def fastest(model, patches: int) -> Engine:
    """Return what runs a model of Keras fastest in this process: LiteRT, or the model itself.

    A conversion takes seconds, so few patches are left to Keras; a GPU is faster than LiteRT.

    Args:
        model: a `keras.Model` from patches, (n, side, side, 3), to (n, outputs).
        patches: how many it will be given.
    """
    import keras
    import tensorflow as tf

    if (
        patches < _WORTH_CONVERTING
        or keras.config.backend() != "tensorflow"
        or tf.config.list_physical_devices("GPU")
    ):
        return model
    try:
        return converted(model)
    except Exception as error:  # the converter's and the interpreter's errors differ by model
        reason = first_line(error)
        warnings.warn(f"LiteRT cannot run {model.name} ({reason}): TensorFlow does.", stacklevel=2)
        return model


def converted(model) -> LiteRT:
    """Return a model of Keras in LiteRT, once it is seen to return the same.

    Args:
        model: a `keras.Model` from patches, (n, side, side, 3), to (n, outputs).

    Raises:
        Exception: it cannot be converted or returns something else; the converter's and the
            interpreter's errors differ by model.
    """
    return LiteRT(content_of(model))


def content_of(model, *, small: bool = False) -> bytes:
    """Return a model of Keras in TFLite's format, once LiteRT is seen to return the same.

    Args:
        model: from (n, side, side, 3) to numbers.
        small: see `export`.

    Raises:
        Exception: as `converted` does.
    """
    content = _converted(model)
    if small:
        content = _rounded(content)
    patches = probe(model.input_shape[1])
    found, expected = LiteRT(content).predict_on_batch(patches), model.predict_on_batch(patches)
    moved = np.abs(found - np.asarray(expected)).max()
    if not moved < TOLERANCE * max(np.abs(expected).max(), 1):
        raise ValueError(f"an output moves by {moved:.2g}")
    return content


def _converted(model):
    """Return a model of Keras in TFLite's format.

    Its weights become constants before the conversion, which takes a fifth of the time that Keras's
    own `export` takes.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
    graph = tf.function(
        lambda patches: model(patches, training=False), input_signature=signature, autograph=False
    ).get_concrete_function()
    constant = convert_variables_to_constants_v2(graph)
    return tf.lite.TFLiteConverter.from_concrete_functions([constant]).convert()


def probe(side_px):
    """Return patches that differ in colour, contrast and grain, float32: 16, or 2 large ones."""
    rng = np.random.default_rng(0)
    number = 8 if side_px <= _LARGE_PX else 1
    fine = rng.integers(0, 256, (number, side_px, side_px, 3))
    blocks = -(-side_px // 12)
    coarse = rng.integers(0, 256, (number, blocks, blocks, 3)).repeat(12, axis=1).repeat(12, axis=2)
    return np.concatenate([fine, coarse[:, :side_px, :side_px]]).astype("float32")


def _rounded(content):
    """Return a TFLite model whose float32 weights have their last byte zero."""
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(content)
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() == schema.TensorType.FLOAT32 and buffer.DataLength():
            values = buffer.DataAsNumpy()  # the model's own bytes
            bits = np.frombuffer(values.tobytes(), "<u4").astype("uint64")
            values[:] = ((bits + 0x80) & 0xFFFFFF00).astype("<u4").view("uint8")
    return bytes(content)


def _planes(content):
    """Return bytes so ordered that all first bytes of four come first: floats then compress."""
    padded = content + bytes(-len(content) % 4)  # behind a flatbuffer, nobody reads it
    return np.frombuffer(padded, "uint8").reshape(-1, 4).T.tobytes()


def _from_planes(content):
    return np.frombuffer(content, "uint8").reshape(4, -1).T.tobytes()
