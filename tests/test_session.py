from pathlib import Path

import numpy as np
import pytest

from pcam_tf import figures, session
from pcam_tf.errors import InputError


@pytest.fixture
def notebooks_dir(tmp_path, monkeypatch):
    """Return the notebooks' folder of a project, which is where a kernel starts."""
    (tmp_path / "pcam_tf").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("PCAM_TF_PRESET", raising=False)
    monkeypatch.delenv("PCAM_TF_DATA_DIR", raising=False)
    return tmp_path / "notebooks"


def test_a_session_goes_to_the_projects_folder_and_prints_its_choice(
    notebooks_dir, prepared, capsys
):
    started = session.start(preset="cpu", data_dir=str(prepared))
    assert Path.cwd() == notebooks_dir.parent
    assert started.recipe.preset == "cpu"
    assert started.run_dir == Path("runs/cpu")
    printed = capsys.readouterr().out
    assert "preset  cpu" in printed
    assert "patch_camelyon 2.0.0: train 192, validation 64, test 64" in printed
    figure = figures.confusion_matrices(np.eye(2, dtype=int), title="saved")
    assert started.save(figure, "04_saved") is figure
    assert (notebooks_dir.parent / "figures" / "cpu" / "04_saved.png").is_file()


def test_the_environment_chooses_where_the_notebook_does_not(notebooks_dir, prepared, monkeypatch):
    monkeypatch.setenv("PCAM_TF_PRESET", "gpu")
    monkeypatch.setenv("PCAM_TF_DATA_DIR", str(prepared))
    started = session.start()
    assert started.recipe.preset == "gpu"
    assert str(started.source.data_dir).startswith(str(prepared))


def test_an_unknown_preset_is_refused_before_anything_happens(notebooks_dir):
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        session.start(preset="smokee")
    assert Path.cwd() == notebooks_dir


@pytest.mark.parametrize("preset", ["cpu", "gpu", "strong"])
def test_a_real_preset_never_runs_on_synthetic_patches(notebooks_dir, monkeypatch, preset):
    monkeypatch.setenv("PCAM_TF_PRESET", preset)
    monkeypatch.setenv("PCAM_TF_DATA_DIR", "")
    with pytest.raises(InputError, match=f"^the preset {preset} needs real patches: set [^\n]+$"):
        session.start()
    assert Path.cwd() == notebooks_dir
    assert not list(notebooks_dir.parent.glob("runs*"))


@pytest.mark.parametrize("folder", ["runs", "figures"])
def test_a_folder_that_cannot_be_written_is_refused_at_the_start(notebooks_dir, folder):
    (notebooks_dir.parent / folder).write_text("")
    with pytest.raises(InputError, match=f"cannot write {folder}/smoke"):
        session.start()
    assert not (notebooks_dir.parent / "data").exists()
