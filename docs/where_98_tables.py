"""Make the figures and tables of where_98_comes_from.md from the stored results of the study.

    make where_98

The results are those of `python -m pcam_tf protocols --preset cpu`, copied to
`pcam_tf/studies/protocols.csv`. A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

import re
import sys
from pathlib import Path

import pandas as pd

from pcam_tf import figures
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.figures import protocol_plots
from pcam_tf.files import written_whole
from pcam_tf.studies import protocol_results

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "where_98_comes_from.md"
FIGURES_DIR = ROOT / "figures" / "cpu"
ALL_PATCHES = 262_144  # of PatchCamelyon's training split


def filled(page: str, found: pd.DataFrame) -> str:
    """Return a page with its tables made anew.

    Args:
        page: Markdown.
        found: rows of `protocol_results.results`.
    """
    tables = {
        "protocols": protocol_results.summary_rows(found),
        "leaks": protocol_results.gap_rows(found),
        "sizes": protocol_results.size_rows(found),
        "curves": protocol_results.curve_rows(found, ALL_PATCHES),
    }
    for name, rows in tables.items():
        begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
        table = f"{begin}\n{reports.markdown_table(rows)}\n\n{end}"
        page, count = re.subn(
            f"{begin}.*?{end}", lambda _, table=table: table, page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for the table {name}")
    return page


if __name__ == "__main__":
    try:
        results = protocol_results.stored_results()
    except InputError as error:
        sys.exit(f"error: {error}")
    figures.save(protocol_plots.ladder(results), FIGURES_DIR / "05_ladder.png")
    errors = protocol_plots.errors_by_size(results, ALL_PATCHES, reported=True)
    figures.save(errors, FIGURES_DIR / "05_learning_curves.png")
    content = filled(PAGE.read_text(encoding="utf-8"), results)
    with written_whole(PAGE) as temporary:
        temporary.write_text(content, encoding="utf-8")
