"""Folders of pictures in the layouts of public sets, as their users have them."""

import pandas as pd
from PIL import Image


def save(picture, path):
    """Write a picture, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def kaggle(folder, patches):
    """Write Kaggle's Histopathologic Cancer Detection; odd patches are tumour."""
    for row, patch in enumerate(patches):
        save(patch, folder / "train" / f"{row:040x}.tif")
    save(patches[0], folder / "test" / "unlabelled.tif")
    rows = [{"id": f"{row:040x}", "label": row % 2} for row in range(len(patches))]
    pd.DataFrame(rows).to_csv(folder / "train_labels.csv", index=False)


def wilds(folder, patches):
    """Write Camelyon17-WILDS; odd patches are tumour, of six slides and three hospitals."""
    rows = []
    for row, patch in enumerate(patches):
        place = {"patient": f"{row % 6:03d}", "node": 2, "x_coord": 32 * row, "y_coord": 64}
        name = f"patient_{place['patient']}_node_2"
        save(patch, folder / "patches" / name / f"patch_{name}_x_{32 * row}_y_64.png")
        more = {"tumor": row % 2, "slide": row % 6, "center": row % 3, "split": int(row >= 18)}
        rows.append(place | more)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
