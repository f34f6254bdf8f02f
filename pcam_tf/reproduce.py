"""Execute all notebooks, each in a fresh kernel, and print a table of their results."""

import os
import time
from pathlib import Path

from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.files import written_whole
from pcam_tf.training import recipes

NOTEBOOKS_DIR = Path("notebooks")


def notebooks() -> list[Path]:
    """Return the notebooks in reading order.

    Raises:
        InputError: the working folder is not the project's folder.
    """
    found = sorted(NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"there is no {NOTEBOOKS_DIR}/ here: run this in the project's folder.")
    return found


def execute(notebook: str | Path, executed: str | Path) -> None:
    """Execute a notebook in a fresh kernel, in its own folder, and store it with its outputs.

    The output of its cells is printed while they run. The copy is stored even if a cell fails.

    Raises:
        InputError: Jupyter is not installed, a cell failed, or `executed` cannot be written.
    """
    # Imported late: only this function needs Jupyter, which is not a dependency of the package.
    try:
        import nbclient
        import nbformat
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: run `pip install jupyter`.") from error

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, cell_index):
            if message["msg_type"] == "stream":
                print(message["content"]["text"], end="", flush=True)
            return super().process_message(message, cell, cell_index)

    content = nbformat.read(notebook, as_version=4)
    client = Client(
        content,
        timeout=None,
        kernel_name="python3",
        # Without this, Jupyter warns that the local connection to the kernel is not encrypted.
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(Path(notebook).parent)}},
    )
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise InputError(
            f"a cell of {notebook} failed with {error.ename}: {error.evalue} ({executed} shows it)"
        ) from error
    finally:
        with written_whole(executed) as temporary:
            nbformat.write(content, temporary)


def reproduce(preset: str, data_dir: str | None) -> str:
    """Execute all notebooks at a preset and return the table of results.

    Args:
        preset: the name of a preset with a frozen phase, such as "smoke".
        data_dir: a prepared data directory, or None for synthetic patches.

    Returns:
        Lines of text: split, patches, AUC and accuracy with intervals, and the paths of the report
        and the figures.

    Raises:
        InputError: no such preset, one without a frozen phase, one that needs real patches; the
            working folder is not the project's folder, a cell failed, or a file cannot be written.
    """
    recipe = recipes.preset(preset)
    recipes.check_patches(preset, real=bool(data_dir))
    if recipe.teachers:
        raise InputError(
            f"the preset {preset} has no frozen phase, which the notebooks compare with the "
            f"unfrozen one: run `python -m pcam_tf train --preset {preset}` instead."
        )
    os.environ["PCAM_TF_PRESET"] = preset
    os.environ["PCAM_TF_DATA_DIR"] = data_dir or ""
    run_dir = Path("runs") / preset
    todo = notebooks()
    for number, notebook in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {notebook}", flush=True)
        started = time.perf_counter()
        execute(notebook, run_dir / "notebooks" / notebook.name)
        print(f"[{number}/{len(todo)}] done in {time.perf_counter() - started:.0f} s", flush=True)
    return "\n".join(
        [
            "",
            reports.markdown_table(reports.summary_rows(reports.read_run_report(run_dir))),
            f"report   {run_dir / 'report.json'}",
            f"figures  {Path('figures') / preset}",
        ]
    )
