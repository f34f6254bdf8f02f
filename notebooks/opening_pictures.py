"""Make the small pictures that the notebooks open with, from the figures of a smoke run.

    python -m pcam_tf reproduce --preset smoke && python notebooks/opening_pictures.py

Outputs of notebooks are not committed, so each notebook shows its main figure from here. The
figures are of synthetic tissue. Colours are reduced to a palette, so that a picture stays below
100 kB.
"""

from pathlib import Path

from PIL import Image

FIGURES_DIR = Path(__file__).parent.parent / "figures" / "smoke"
MAIN_FIGURES = (
    "01_training_patches",
    "02_optical_density_patches",
    "03_learning_curves",
    "04_confusion",
    "05_ladder",
    "06_explained_patches",
    "07_heat_map_patches",
    "08_auc_by_compute",
    "09_remedies",
    "10_splits",
    "11_under_shift",
)
WIDTH_PX = 1000
PATCHES_WIDTH_PX = 520  # tissue compresses badly
SLIDE_WIDTH_PX = 800  # two panels beside each other
LARGEST_BYTES = 98_000


def make_picture(name: str) -> Path:
    """Write the small picture of a figure and return its path."""
    with Image.open(FIGURES_DIR / f"{name}.png") as figure:
        width = PATCHES_WIDTH_PX if name.endswith("_patches") else WIDTH_PX
        width = SLIDE_WIDTH_PX if name.startswith("07_") else width
        size = (width, round(figure.height * width / figure.width))
        small = figure.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    path = FIGURES_DIR / f"{name[:2]}_opening.png"
    for colours in (256, 128, 64, 32):
        small.quantize(colours, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LARGEST_BYTES:
            break
    return path


if __name__ == "__main__":
    for figure_name in MAIN_FIGURES:
        picture = make_picture(figure_name)
        print(f"{picture.stat().st_size / 1000:4.0f} kB  {picture}")
