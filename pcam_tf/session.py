"""The first cell of a notebook: which preset, which patches, where results go."""

import dataclasses
import importlib.metadata
import logging
import os
import platform
import warnings
from pathlib import Path

import keras
import tensorflow_datasets as tfds

from pcam_tf import data, figures
from pcam_tf.files import check_outputs
from pcam_tf.training import recipes


@dataclasses.dataclass(frozen=True)
class Session:
    """Recipe, patches and folders of a notebook.

    Attributes:
        recipe: the recipe of the chosen preset.
        source: the prepared TFDS builder that the patches come from.
        run_dir: the folder of the run, `runs/<preset>`.
        figures_dir: the folder of the figures, `figures/<preset>`.
    """

    recipe: recipes.Recipe
    source: tfds.core.DatasetBuilder
    run_dir: Path
    figures_dir: Path

    def save(self, figure, name: str):
        """Save a figure as `<figures_dir>/<name>.png` and return it, so that the notebook shows it.

        Raises:
            InputError: the file cannot be written.
        """
        figures.save(figure, self.figures_dir / f"{name}.png")
        return figure


def start(preset: str | None = None, data_dir: str | None = None) -> Session:
    """Start a notebook: choose preset and patches, go to the project's folder, print the choice.

    Args:
        preset: a name of `recipes.PRESETS`; without it, PCAM_TF_PRESET, else "smoke".
        data_dir: a prepared data directory; without it, PCAM_TF_DATA_DIR, else synthetic patches,
            which only "smoke" accepts. A relative path starts at the project's folder.

    Raises:
        InputError: an unknown preset, a preset other than "smoke" without a data directory, a data
            directory that cannot be used, or a folder of results that cannot be written to.
    """
    recipe = recipes.preset(preset or os.environ.get("PCAM_TF_PRESET") or "smoke")
    chosen_dir = data.chosen_dir(data_dir)
    recipes.check_patches(recipe.preset, real=bool(chosen_dir))
    _go_to_project()
    run_dir, figures_dir = Path("runs") / recipe.preset, Path("figures") / recipe.preset
    # Before minutes or hours of training.
    check_outputs([run_dir / "recipe.json", figures_dir / "figure.png"])
    source = data.open_source(chosen_dir)
    # A reader of a notebook can do nothing about these warnings of Keras and TFDS.
    warnings.filterwarnings("ignore", category=UserWarning, module="keras|tensorflow_datasets")
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "tensorflow-datasets", "scikit-learn")
    )
    patches = ", ".join(f"{split} {data.count(source, split):,}" for split in data.SPLITS)
    print(f"Python {platform.python_version()}, {versions}; backend {keras.config.backend()}")
    print(f"preset  {recipe.preset}")
    print(f"patches {source.info.name} {source.info.version}: {patches}")
    print(f"run     {run_dir}")
    return Session(recipe, source, run_dir, figures_dir)


def _go_to_project() -> None:
    """Change to the folder that holds `notebooks/`, so that relative paths work in any kernel."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "pcam_tf").is_dir():
            os.chdir(folder)
            return
