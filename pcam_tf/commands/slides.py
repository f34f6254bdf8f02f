"""Commands about slides: heat maps, and the FROC of detections."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError


def slide(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Slides: SVS, NDPI, MRXS, SCN, BIF, TIFF, OME-TIFF, DICOM, PNG or JPEG files.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Results are in DIR/<slide's name>/.")
    ],
    model: options.Model = None,
    engine: options.Engine = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT",
            help="Microns per pixel of the slides' largest level. Default: as each file states.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Side of a cell, in pixels of the model's scale. Default: the square that the "
            "model's labels are about.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Predict patch by patch, about four times as slowly, also with a model that "
            "was trained to predict whole fields, such as the shipped one.",
        ),
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="GEOJSON",
            help="Outlines of the tissue, in pixels of the largest level. Default: it is found.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT",
            help="The probability from which on a cell is called tumour. Default: with a "
            "specificity of 95 % in the report of the model, else 0.5.",
        ),
    ] = None,
    asap: Annotated[
        bool, typer.Option("--asap", help="Also write the outlines as ASAP's XML.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Predict only part I of N of the slides, such as 2/4."),
    ] = None,
) -> str:
    """Write the heat map of whole slides, outlines for QuPath, lesion candidates and a report.

    A command that was stopped goes on where it was when it is given again.
    """
    from pcam_tf import files
    from pcam_tf.data import image_scale
    from pcam_tf.models import model_files
    from pcam_tf.prediction import shards
    from pcam_tf.slides import cohort, field_predictors, outputs, slide_runs

    if mpp is not None:
        image_scale.check_mpp(mpp)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"a threshold of {threshold}: give a probability, 0 to 1.")
    part = shards.parse(shard) if shard else (1, 1)
    folders = cohort.folders_of(inputs, output)
    if mask and len(folders) > 1:
        raise InputError("--mask is of one slide: give one.")
    chosen = {path: folders[path] for path in cohort.shard_of(list(folders), part)}
    read = [*folders, *([mask] if mask else []), *options.input_files(models=[model])]
    files.check_outputs(
        [folder / name for folder in chosen.values() for name in outputs.NAMES], read
    )
    file = model_files.model_file(model or model_files.SHIPPED_MODEL)
    predictor, used = field_predictors.load(file, engine=engine, step_px=stride, exact=exact)
    threshold = _threshold_of(file) if threshold is None else threshold
    about = {"sha256": model_files.digest(file), "engine": used}

    def predict_slide(path, folder, progress):
        heat_map = slide_runs.run(
            path, folder, predictor, about, mpp=mpp, mask=mask, progress=progress
        )
        outputs.complete(path, folder, heat_map, threshold, mpp=mpp, mask=mask, asap=asap)
        return heat_map.settings["tissue"]["cells"]

    outcome = cohort.run(chosen, predict_slide)
    outputs.write_slides_table(output)
    done = f"{len(outcome.finished)} of {len(chosen)} slides are in {output}"
    if outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        if len(chosen) == 1:
            raise InputError(reason)
        raise InputError(f"{len(outcome.failed)} slides failed, {name} first; {done}.")
    cells = sum(outcome.finished.values())
    positive = predictor.task.classes[1]
    return f"{cells:,} cells of tissue; {done}; {positive} is outlined from {threshold:.3f} on"


def _threshold_of(model):
    """Return from which probability on a cell is called: few of a slide's cells are tumour."""
    from pcam_tf.evaluation import reports

    report, _ = reports.report_of_model(model)
    return report.get("one_view", {}).get("thresholds", {}).get("specificity_95", 0.5)


def froc(
    detections: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTIONS",
            help="A folder of <slide>.csv: confidence,x,y in level-0 pixels; or one that `slide` "
            "wrote.",
        ),
    ],
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="ANNOTATIONS",
            help="A folder of <slide>.xml (ASAP) or <slide>.geojson (QuPath); none for a normal "
            "slide.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="JSON", help="The result to write; a figure is put beside it.")
    ],
    slides: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="The slides: slide,width,height,mpp. Default: DETECTIONS/slides.csv.",
        ),
    ] = None,
) -> str:
    """Measure how many lesions are found, as the Camelyon16 challenge does (FROC)."""
    from pcam_tf import figures, files
    from pcam_tf.figures import slide_plots
    from pcam_tf.slides import froc as measure

    slides = slides or detections / "slides.csv"
    figure = output.with_suffix(".png") if files.is_ordinary(output) else None
    read = [path for folder in (detections, annotations) for path in folder.glob("*")]
    files.check_outputs([output, figure], [slides, *read])
    results, missing = measure.judge_folders(detections, annotations, measure.read_slides(slides))
    summary = measure.summary(results) | {"not_counted": missing}
    files.write_json(output, summary)
    if figure:
        figures.save(slide_plots.froc(summary), figure)
    return "\n".join(
        [*_lines(summary), f"result in {output}{f', figure in {figure}' if figure else ''}"]
    )


def _lines(summary):
    from pcam_tf.slides.froc import FEW_SLIDES

    yield (
        f"{summary['slides']} slides, {summary['lesions']} lesions "
        f"({summary['lesions_found']} found), {summary['itc']} regions of isolated tumour cells, "
        f"{summary['false_positives']} false positives"
    )
    for rate, value in summary["sensitivities"].items():
        text = f"sensitivity at {rate} false positives a slide"
        yield f"{text:45}{_number(value, summary['intervals'][rate])}"
    yield f"{'mean':45}{_number(summary['mean'], summary['intervals']['mean'])}"
    if summary["slides"] < FEW_SLIDES:
        yield f"Only {summary['slides']} slides: the intervals (bootstrap of slides) are rough."
    if summary["not_counted"]:
        names = ", ".join(summary["not_counted"])
        yield f"Not counted, nor their lesions, since there are no detections: {names}."


def _number(value, interval):
    if value is None:
        return "not defined (no lesions)"
    if interval["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
