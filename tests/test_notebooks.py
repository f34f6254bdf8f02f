"""The notebooks run top to bottom, hold no outputs, and keep pictures of patches out."""

import re
from pathlib import Path

import nbformat
import pytest

from pcam_tf import reproduce
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a folder whose name has a space, laid out like a clone, for notebooks to write to."""
    folder = tmp_path_factory.mktemp("a clone")
    (folder / "pcam_tf").mkdir()
    (folder / "notebooks").mkdir()
    for notebook in NOTEBOOKS:
        (folder / "notebooks" / notebook.name).write_bytes(notebook.read_bytes())
    return folder


@pytest.mark.notebook
def test_the_notebooks_run_top_to_bottom_and_end_in_a_table(workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PCAM_TF_PRESET", "to be set")
    monkeypatch.setenv("PCAM_TF_DATA_DIR", "to be emptied")
    table = reproduce.reproduce("smoke", None)
    assert "unfrozen | test" in re.sub(" +", " ", table)
    report = reports.read_run_report("runs/smoke")["unfrozen"]
    assert report["patches"] == 1024
    # What the smoke recipe promises on synthetic slides that it has not seen.
    assert report["metrics"]["auc"]["value"] > 0.95
    figures = {path.stem for path in Path("figures/smoke").iterdir()}
    assert {name[:2] for name in figures} == {path.stem[:2] for path in NOTEBOOKS}
    assert f"[{len(NOTEBOOKS)}/{len(NOTEBOOKS)}] done" in capfd.readouterr().out
    for executed in Path("runs/smoke/notebooks").iterdir():
        shown = [
            output
            for cell in nbformat.read(executed, as_version=4).cells
            for output in cell.get("outputs", [])
        ]
        assert any("image/png" in output.get("data", {}) for output in shown), executed


@pytest.mark.notebook
def test_a_failing_cell_is_named_and_the_executed_copy_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [nbformat.v4.new_code_cell("print(6 * 7)"), nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), "broken.ipynb")
    with pytest.raises(InputError, match=r"broken\.ipynb failed with ZeroDivisionError"):
        reproduce.execute("broken.ipynb", "executed.ipynb")
    assert nbformat.read("executed.ipynb", as_version=4).cells[0].outputs[0].text == "42\n"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs_and_define_little(notebook):
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_open_with_time_and_a_small_picture_and_end_with_exercises(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    opening, ending = cells[1].source, cells[-1].source
    assert "**You will learn**" in opening
    assert "`smoke`" in opening and "`cpu`" in opening
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", opening)
    assert (notebook.parent / picture).stat().st_size < 100_000
    assert ending.startswith("## Exercises")
    assert 2 <= len(re.findall(r"^\d\. ", ending, flags=re.M)) <= 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_in_notebooks_lead_to_files(notebook):
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^):]+)\)", cell.source):
                assert (notebook.parent / link.partition("#")[0]).is_file(), link


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_save_pictures_of_patches_under_names_that_stay_out(notebook):
    draws_patches = (
        r"(gallery|fields_of_classes|patch_grid|augmentation_sheet|show_patch|rows_of_patches"
        r"|evidence|overview|tissue_picture)\("
    )
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and re.search(draws_patches, cell.source):
            names = re.findall(r"\"(\d\d_\w+)\"", cell.source)
            assert names and all(name.endswith("_patches") for name in names), cell.source
