"""Commands about slides: the FROC of detections."""

from pathlib import Path
from typing import Annotated

import typer


def froc(
    detections: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTIONS", help="A folder of <slide>.csv: confidence,x,y in level-0 pixels."
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
    slides: Annotated[
        Path, typer.Option(metavar="CSV", help="The slides: slide,width,height,mpp.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="JSON", help="The result to write; a figure is put beside it.")
    ],
) -> str:
    """Measure how many lesions are found, as the Camelyon16 challenge does (FROC)."""
    from pcam_tf import figures, files
    from pcam_tf.figures import slide_plots
    from pcam_tf.slides import froc as measure

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
