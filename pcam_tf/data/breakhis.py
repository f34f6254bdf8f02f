"""BreakHis: microscope fields of eight breast tumours, made into a prepared source of fields.

F. A. Spanhol et al., "A dataset for breast cancer histopathological image classification", IEEE
Transactions on Biomedical Engineering 63 (2016). Two layouts are read: the official archive
(`BreaKHis_v1/histology_slides/breast/<benign or malignant>/SOB/<type>/<patient>/<X>/*.png`) and any
folder of such files, with or without a `manifest.csv` that lists them. What a file shows is read
from its name and checked against its folders and the manifest.

Fields of 100X and 200X are brought to one scale: 448 and 224 px stand for the 700 px of the
original. Pixels stay square. A patient is BreakHis's year and slide; a case is the same without
the letters at the end, which look like blocks of one accession.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from pcam_tf.data import image_files, sources, writing
from pcam_tf.errors import InputError
from pcam_tf.task import BREAKHIS, BREAKHIS_MALIGNANT, Task
from pcam_tf.user_tables import read_csv_as_text

SPLIT = "fields"
# Magnification -> width of a field in pixels.
WIDTHS_PX = {100: 448, 200: 224}
ORIGINAL_WIDTH_PX = 700
# Letters of the type in a file name -> folder of the official archive.
CODES = {
    "A": "adenosis",
    "F": "fibroadenoma",
    "PT": "phyllodes_tumor",
    "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma",
    "LC": "lobular_carcinoma",
    "MC": "mucinous_carcinoma",
    "PC": "papillary_carcinoma",
}
# BreakHis files the same pictures of this patient as ductal and as lobular carcinoma.
TWO_LABELS = ("14-13412",)
_MALIGNANT = BREAKHIS_MALIGNANT.classes[1]
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_NAME = re.compile(
    r"SOB_(?P<kind>[BM])_(?P<code>[A-Z]+)[-_](?P<patient>\d+-\d+[A-Z]*)"
    r"(?:-(?P<magnification>40|100|200|400))?-(?P<sequence>i?\d+)"
)


def prepare(folder: str | Path, data_dir: str | Path) -> Path:
    """Write the fields of a folder as the source `breakhis`, whole or not at all.

    Features: `id` (the file's name without its ending), `image` (height, width, 3) uint8 of any
    height and width, `label` (of the eight classes), `group` (the case), `patient` and
    `magnification`. There is one split, "fields": folds are drawn by whoever trains.

    Args:
        folder: the official archive, or a folder with its files.
        data_dir: where to; the source lies in `<data_dir>/breakhis/1.0.0`.

    Returns:
        The folder of the source.

    Raises:
        InputError: no field at 100X or 200X, a file that is damaged, misnamed, missing or in
            another folder than its name says, or `data_dir` cannot be written.
    """
    table = list_fields(folder)
    bar = tqdm(_examples(table), total=len(table), desc="preparing breakhis", unit=" fields")
    builder = write_fields(bar, data_dir, BREAKHIS)
    return Path(builder.data_dir)


def write_fields(
    examples: Iterable[dict], data_dir: str | Path, described: Task
) -> tfds.core.DatasetBuilder:
    """Write fields of any size as a prepared source with the features that `prepare` names."""
    features = {
        "image": tfds.features.Image(shape=sources.FIELD_SHAPE, encoding_format="png"),
        "group": tfds.features.Text(),
        "patient": tfds.features.Text(),
        "magnification": np.int64,
    }
    return writing.write_source({SPLIT: examples}, data_dir, described, features=features)


def read_fields(
    source: tfds.core.DatasetBuilder, described: Task | None = None
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Return the fields of a source, in the order of their ids.

    Args:
        source: a source of fields.
        described: a task whose classes are some of the source's, or `BREAKHIS_MALIGNANT`; fields of
            other classes are left out. None for the source's own.

    Returns:
        The fields, (height, width, 3) uint8, and a table `id`, `label` (of the task), `group`,
        `patient` and `magnification`.

    Raises:
        InputError: the source holds no fields, or lacks a class of the task.
    """
    if SPLIT not in source.info.splits:
        raise InputError(
            f"{source.data_dir} holds patches, not fields: make a source of fields by "
            "`python -m pcam_tf prepare --breakhis DIR`."
        )
    classes = sources.task_of(source).classes
    labels = _new_labels(classes, classes if described is None else described.classes)
    images, rows = [], []
    for example in tfds.as_numpy(source.as_dataset(split=SPLIT)):
        label = labels.get(int(example["label"]))
        if label is None:
            continue
        texts = {name: example[name].decode() for name in ("id", "group", "patient")}
        rows.append(texts | {"label": label, "magnification": int(example["magnification"])})
        images.append(example["image"])
    table = pd.DataFrame(rows, columns=["id", "label", "group", "patient", "magnification"])
    order = table["id"].argsort(kind="stable")
    return [images[row] for row in order], table.iloc[order].reset_index(drop=True)


def _new_labels(classes, wanted):
    """Return the label in the source -> the label in the task, of the classes that it asks for."""
    if set(wanted) == set(BREAKHIS_MALIGNANT.classes) and set(classes) == set(BREAKHIS.classes):
        return {label: int(is_malignant(name)) for label, name in enumerate(classes)}
    missing = [name for name in wanted if name not in classes]
    if missing:
        raise InputError(f"the fields have no class {missing[0]!r} but {', '.join(classes)}.")
    return {classes.index(name): label for label, name in enumerate(wanted)}


def is_malignant(name: str) -> bool:
    """Return whether a class of BreakHis is a malignant tumour."""
    return name.endswith("carcinoma")


def case_of(patient: str) -> str:
    """Return the case of a patient: "14-22549" of "14-22549AB"."""
    return patient.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def list_fields(folder: str | Path) -> pd.DataFrame:
    """Return what the names of the files in a folder say; no picture is opened.

    Returns:
        Columns `path`, `id`, `label`, `group`, `patient`, `magnification` and `sha256` (empty if
        there is no manifest), in the order of the ids. Fields of 40X and 400X are left out, and so
        is a patient that BreakHis files under two types.

    Raises:
        InputError: see `prepare`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the folder of the BreakHis archive.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    checksums = _listed(folder, paths)
    rows = [_described(path, folder) | {"sha256": checksums.get(path, "")} for path in paths]
    table = pd.DataFrame(rows)
    if len(table):
        kept = table["magnification"].isin(WIDTHS_PX) & ~table["patient"].isin(TWO_LABELS)
        table = table[kept].sort_values("id", kind="stable").reset_index(drop=True)
    if table.empty:
        raise InputError(f"{folder} holds no BreakHis field at 100X or 200X (SOB_*.png or .jpg).")
    twice = table["id"].duplicated(keep=False)
    if twice.any():
        one, other = table.loc[twice, "path"].iloc[:2]
        raise InputError(f"{one} and {other} are the same field: keep one of them.")
    return table


def _listed(folder, paths):
    """Return the files that the manifest lists -> their SHA-256; {} without a manifest."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return {}
    rows = read_csv_as_text(manifest, ("path", "sha256"))
    if not {"path", "sha256"} <= set(rows):
        raise InputError(f"{manifest} has no columns path and sha256.")
    listed = {folder / path: digest for path, digest in zip(rows.path, rows.sha256, strict=True)}
    for path in listed:
        if not path.is_file():
            raise InputError(f"{path} is listed in {manifest} and missing: copy the folder again.")
    for path in paths:
        if path not in listed:
            raise InputError(f"{path} is not listed in {manifest}: remove it or list it.")
    return listed


def _described(path, folder):
    """Return what the name of a file says, checked against the folders that it lies in."""
    found = _NAME.fullmatch(path.stem)
    if not found:
        raise InputError(
            f"{path} is not named as BreakHis names its files, such as "
            "SOB_B_A-14-22549AB-100-001.png: rename or remove it."
        )
    code, patient = found["code"], found["patient"]
    if code not in CODES:
        raise InputError(f"{path} has the unknown type {code!r}; known: {', '.join(CODES)}.")
    name = CODES[code]
    if found["magnification"] is None:
        raise InputError(f"{path} lacks its magnification: BreakHis writes it before the number.")
    malignant = is_malignant(name)
    folders = path.relative_to(folder).parts[:-1]
    says = {
        "the letter B or M": (found["kind"] == "M", malignant),
        "the folder": (
            {*folders} & {"benign", _MALIGNANT},
            {_MALIGNANT if malignant else "benign"},
        ),
        "the folder of the type": ({*folders} & set(CODES.values()), {name}),
        "the folder of the magnification": (
            {part for part in folders if re.fullmatch(r"\d+X", part)},
            {f"{found['magnification']}X"},
        ),
    }
    for what, (stated, expected) in says.items():
        if stated != expected and stated != set():
            raise InputError(f"{path}: {what} does not agree with its name: move or rename it.")
    return {
        "path": str(path),
        "id": path.stem,
        "label": BREAKHIS.classes.index(name),
        "group": case_of(patient),
        "patient": patient,
        "magnification": int(found["magnification"]),
    }


def _examples(table: pd.DataFrame) -> Iterator[dict]:
    """Read the files of `list_fields` one by one."""
    for row in table.to_dict("records"):
        path, expected = row.pop("path"), row.pop("sha256")
        if expected and hashlib.sha256(Path(path).read_bytes()).hexdigest() != expected:
            raise InputError(f"{path} is not the file of the manifest: copy the folder again.")
        with image_files.opened(path) as file:
            pixels = file.pixels()
        yield row | {"image": _scaled(pixels, row["magnification"], path)}


def _scaled(pixels, magnification, path):
    """Return a field at the common scale, uint8 (height, width, 3)."""
    width = WIDTHS_PX[magnification]
    height, found_px = pixels.shape[:2]
    if found_px not in (width, ORIGINAL_WIDTH_PX):
        raise InputError(
            f"{path} is {found_px} px wide; a field of {magnification}X has "
            f"{ORIGINAL_WIDTH_PX} px, or {width} px at the common scale."
        )
    if found_px == width:
        return pixels
    size = (width, round(height * width / found_px))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
