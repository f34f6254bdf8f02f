"""All benchmarks that compare this project with a baseline, in one run.

    python -m benchmarks.bench --size full --data-dir DIR --output docs/performance

writes `performance.json` and `performance.png`, and prints the table. The baseline is what a user
would write instead. `--only` measures some parts again and keeps the others. `--size smoke` uses
synthetic patches: it only shows that everything works and that all ways agree. Figures are ratios
of one run; they are wrong if the machine does other work at the same time.
"""

import pcam_tf  # noqa: F401, I001  (first: it sets what TensorFlow reads when it is imported)

import argparse
import json
import os
from pathlib import Path

import matplotlib.ticker

from benchmarks import (
    growth,
    input_pipeline,
    prediction_speed,
    slide_speed,
    small_network,
    training_speed,
)
from pcam_tf import data, figures
from pcam_tf.evaluation import reports
from pcam_tf.files import check_outputs, write_json

PARTS = ("input", "prediction", "slides", "training", "steps", "growth")


def main(words: list[str] | None = None) -> int:
    """Run the benchmarks, print their table and write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("smoke", "full"), default="smoke")
    parser.add_argument("--data-dir", help="of real patches, for the full size")
    parser.add_argument("--slide-model", help="of the part slides; default: the shipped one")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="without suffix")
    arguments = parser.parse_args(words)
    check_outputs(arguments.output.with_suffix(each) for each in (".json", ".png"))
    smoke = arguments.size == "smoke"
    if smoke:
        small_network.register()
    builder = (
        small_network.source() if smoke else data.open_source(data.chosen_dir(arguments.data_dir))
    )
    input_pipeline.check(builder)
    content = {
        "size": arguments.size,
        "patches": f"{builder.info.name} {builder.info.version}",
        "machine": prediction_speed.machine(),
    }
    parts = earlier_parts(arguments.output.with_suffix(".json"), content)
    measure = {
        "input": lambda: input_pipeline.rows(builder, arguments.size),
        "prediction": lambda: prediction_speed.rows(builder, arguments.size),
        "slides": lambda: slide_speed.rows(arguments.size, arguments.slide_model),
        "training": lambda: training_speed.rows(builder, arguments.size),
        "steps": lambda: training_speed.step_rows(builder, arguments.size),
        "growth": lambda: growth.rows(arguments.size),
    }
    for name in PARTS:
        if name in arguments.only:
            parts[name] = {"rows": measure[name](), "load_average_at_the_end": os.getloadavg()}
            # After each part, so that what took long is kept if the next one fails.
            write_json(arguments.output.with_suffix(".json"), content | {"parts": parts})
    found = [each for name in PARTS if name in parts for each in parts[name]["rows"]]
    figures.save(ratios(found), arguments.output.with_suffix(".png"))
    print(reports.markdown_table(as_text(found)))
    return 0


def earlier_parts(path: Path, content: dict) -> dict[str, dict]:
    """Return the parts that were measured before, on the same patches and machine at that size.

    Rows of one part were measured in turn in one run; parts may come from several runs.
    """
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    same = all(earlier.get(key) == value for key, value in content.items())
    return earlier.get("parts", {}) if same else {}


def as_text(found: list[dict]) -> list[dict[str, str]]:
    """Return rows as text for `reports.markdown_table`."""

    def number(value):
        if value is None:
            return ""
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return [
        {
            "what": each["what"],
            "unit": each["unit"],
            "ours": number(each["ours"]),
            "baseline": number(each["plain"]),
            "upper limit": number(each["limit"]),
            "speed-up": ""
            if each["ratio"] is None
            else f"{each['ratio']:.1f} ({each['ratio_low']:.1f}–{each['ratio_high']:.1f})",
        }
        for each in found
    ]


@figures.styled
def ratios(found: list[dict]):
    """Draw the speed-up of each row over its baseline, on a logarithmic axis."""
    compared = [each for each in found if each["ratio"] is not None][::-1]
    figure = figures.new_figure(8.5, 0.42 * len(compared) + 1.2)
    axes = figure.subplots()
    for place, each in enumerate(compared):
        axes.plot(
            [each["ratio_low"], each["ratio_high"]], [place, place], color=figures.NEUTRAL, lw=2
        )
        axes.plot(each["ratio"], place, "o", color=figures.TUMOUR)
        axes.annotate(
            f"{each['ratio']:.1f}",
            (each["ratio_high"], place),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(1, color="#888888", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_yticks(range(len(compared)), [each["what"] for each in compared])
    axes.set_xlabel("speed-up: median and range")
    axes.margins(x=0.12)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
