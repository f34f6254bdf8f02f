"""Execute the notebooks top to bottom, each in a fresh kernel, and sum up their result."""

import os
import time
from pathlib import Path

import nbclient
import nbformat

from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.files import written_whole

NOTEBOOKS_DIR = Path("notebooks")


class _SpeakingClient(nbclient.NotebookClient):
    """Prints what the cells print, as they print it."""

    def process_message(self, message, cell, cell_index):
        if message["msg_type"] == "stream":
            print(message["content"]["text"], end="", flush=True)
        return super().process_message(message, cell, cell_index)


def notebooks() -> list[Path]:
    """Return the notebooks in the order in which they are read.

    Raises:
        InputError: the working folder is not the project's.
    """
    found = sorted(NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"there is no {NOTEBOOKS_DIR}/ here: run this in the project's folder.")
    return found


def execute(notebook: str | Path, executed: str | Path) -> None:
    """Execute a notebook in a fresh kernel, in its own folder, and store it with its outputs.

    What its cells print is printed. The copy is stored also when a cell fails.

    Raises:
        InputError: a cell failed, or `executed` cannot be written.
    """
    content = nbformat.read(notebook, as_version=4)
    client = _SpeakingClient(
        content,
        timeout=None,
        kernel_name="python3",
        # Jupyter warns that a kernel on this machine talks without encryption.
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
        preset: "smoke", "cpu" or "gpu".
        data_dir: a prepared data directory, or None for synthetic patches.

    Returns:
        A short text: split, patches, AUC and accuracy with intervals, and where the report is.

    Raises:
        InputError: the working folder is not the project's, a cell failed, or a file cannot be
            written.
    """
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
