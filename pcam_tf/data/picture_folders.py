"""Folders of labelled pictures of users, made into a prepared source.

Four layouts are recognised: a table of labels; class folders; Kaggle's Histopathologic Cancer
Detection (`train_labels.csv`); Camelyon17-WILDS (P. W. Koh et al., ICML 2021; `metadata.csv`).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from tqdm import tqdm

from pcam_tf.data import groups, image_files, sources, writing
from pcam_tf.errors import InputError, first_line
from pcam_tf.files import written_whole
from pcam_tf.task import PCAM, Task
from pcam_tf.user_tables import read_csv_as_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
KAGGLE_LABELS, WILDS_LABELS = "train_labels.csv", "metadata.csv"
LEFT_OUT_FILE = "left_out.csv"
# Shares of train, validation and test where the splits are drawn here.
SHARES = (0.7, 0.15, 0.15)
SPLIT_BY = ("group", "picture")
_WILDS_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
# WILDS: `center` 1 is for validation and 2 for test; of the others, `split` 1 is held out.
_WILDS_HOSPITALS = {"1": "validation", "2": "test"}
_SPLIT_NAMES = {
    **{name: "train" for name in ("train", "training")},
    **{name: "validation" for name in ("validation", "valid", "val")},
    "test": "test",
}
# Names of PatchCamelyon's two classes in other data, in the order of their labels.
_PCAM_NAMES = (("0", "1"), PCAM.classes, (PCAM.classes[0], "tumor"))


@dataclasses.dataclass
class Listed:
    """What is known of the pictures of a folder before any is opened.

    Attributes:
        table: `path`, `id`, `label` (a text), `split` (empty if not given), and `group` and
            `hospital` where they are known.
        left_out: (name, reason) of what cannot be used.
    """

    table: pd.DataFrame
    left_out: list[tuple[str, str]]


def prepare(
    folder: str | Path,
    data_dir: str | Path,
    *,
    labels: str | Path | None = None,
    mpp: float | None = None,
    split_by: str | None = None,
    seed: int = 0,
) -> str:
    """Write the labelled pictures of a folder as a prepared source, whole or not at all.

    Pictures are read as `image_files.read` reads them: at the scale of the task. They must then be
    of the task's side. Two classes called 0 and 1, or normal and tumour, of 96 px are
    PatchCamelyon's task; other classes make a task of their own. `groups.csv` beside TFDS's files
    holds the groups, and `left_out.csv` what was left out and why.

    Args:
        folder: holds the pictures.
        data_dir: where to; the source lies in `<data_dir>/<task>/1.0.0`.
        labels: a CSV table with `id` or `path`, `label`, and perhaps `split`, `group`, `hospital`;
            None: the layout is recognised.
        mpp: microns per pixel of the pictures and, for classes other than PatchCamelyon's, of
            the task; None: as each file states, or the task's.
        split_by: "group" draws train, validation and test by group, "picture" at random; None:
            as given, or all into `train`.
        seed: of the splits that are drawn.

    Returns:
        A text: how many pictures of each split, and what was left out.

    Raises:
        InputError: no picture with a label, unknown splits, groups of some pictures only, no scale
            for a new task, or `data_dir` cannot be written.
    """
    listed = list_pictures(Path(folder), labels)
    table = _with_splits(listed.table, split_by, seed)
    described, indices = _task_of(table, mpp)
    left_out = list(listed.left_out)
    splits = {
        split: _examples(table[table["split"] == split], split, described, indices, mpp, left_out)
        for split in sources.ordered(table["split"].unique())
    }

    def finish(made):
        _write_left_out(left_out, made)
        if "group" in table:
            groups.write_groups(table, made)

    made = writing.write_source(splits, data_dir, described, finish)
    return _summary(made, table, left_out, split_by)


def list_pictures(folder: Path, labels: str | Path | None = None) -> Listed:
    """Return what the names and tables of a folder say of its pictures, see `prepare`."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the folder of the pictures.")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    }
    if not files:
        raise InputError(f"{folder} holds no PNG, JPEG or TIFF picture: give another folder.")
    if labels is not None:
        rows, left_out = _match(_read_labels(Path(labels)), files, Path(labels).name)
    elif (folder / KAGGLE_LABELS).is_file():
        table = _read_labels(folder / KAGGLE_LABELS)
        rows, left_out = _match(table, files, KAGGLE_LABELS)
    elif (folder / WILDS_LABELS).is_file():
        rows, left_out = _match(_read_wilds(folder / WILDS_LABELS), files, WILDS_LABELS)
    else:
        rows, left_out = _class_folders(files)
    table = pd.DataFrame(rows)
    if table.empty:
        raise InputError(
            f"{folder} holds no picture with a label: give --labels CSV with id,label, or put "
            "the pictures into folders named after their classes."
        )
    twice = table["id"].duplicated()
    left_out += [(name, "duplicate id") for name in table.loc[twice, "path"].map(str)]
    return Listed(table[~twice].reset_index(drop=True), left_out)


def _read_labels(path):
    table = read_csv_as_text(path, ("id", "path", "label", "split", *groups.COLUMNS))
    if "label" not in table or not {"id", "path"} & set(table):
        raise InputError(f"{path} needs the columns id (or path) and label.")
    kept = [name for name in ("id", "path", "label", "split", *groups.COLUMNS) if name in table]
    return table[kept]


def _read_wilds(path):
    table = read_csv_as_text(path, _WILDS_COLUMNS)
    missing = [name for name in _WILDS_COLUMNS if name not in table]
    if missing:
        raise InputError(
            f"{path} is not the table of Camelyon17-WILDS: it lacks the column {missing[0]}. Give "
            "another table by --labels."
        )
    name = "patient_" + table["patient"] + "_node_" + table["node"]
    place = "_x_" + table["x_coord"] + "_y_" + table["y_coord"]
    paths = "patches/" + name + "/patch_" + name + place + ".png"
    held_out = table["split"].map({"0": "train"}).fillna("held_out")
    return pd.DataFrame(
        {
            "path": paths,
            "label": table["tumor"],
            "split": table["center"].map(_WILDS_HOSPITALS).fillna(held_out),
            "group": table["slide"],
            "hospital": table["center"],
        }
    )


def _match(table, files, name):
    """Return the rows whose picture is there, and what has no picture or no label."""
    by_id = {}
    for key in files:
        for short in {key, key.rsplit(".", 1)[0], Path(key).name, Path(key).stem}:
            by_id.setdefault(short, []).append(key)
    rows, left_out, used = [], [], set()
    for row in table.to_dict("records"):
        wanted = row.pop("path", "") or row.get("id", "")
        found = by_id.get(wanted.removeprefix("./"), [])
        if len(found) != 1:
            reason = "several pictures of that name" if found else "no picture"
            left_out.append((wanted, reason))
        elif not row["label"]:
            left_out.append((wanted, "no label"))
            used.add(found[0])
        else:
            used.add(found[0])
            given = {"path": files[found[0]], "id": row.get("id") or found[0].rsplit(".", 1)[0]}
            rows.append(row | given)
    left_out += [(key, f"no label in {name}") for key in files if key not in used]
    return rows, left_out


def _class_folders(files):
    """Return a row for each picture in a folder of a class, perhaps within one of a split."""
    rows, left_out = [], []
    for key, path in files.items():
        parts = Path(key).parts[:-1]
        split = _SPLIT_NAMES.get(parts[0].lower()) if parts else None
        if split:
            parts = parts[1:]
        if not parts:
            left_out.append((key, "no label: in no folder of a class"))
            continue
        given = {"path": path, "id": key.rsplit(".", 1)[0], "label": parts[0], "split": split or ""}
        rows.append(given)
    return rows, left_out


def _with_splits(table, split_by, seed):
    """Return the table with a split for each picture, as given or drawn."""
    for column in groups.COLUMNS:
        if column in table and (table[column] == "").all():
            table = table.drop(columns=column)
    if "group" in table and (table["group"] == "").any():
        picture = table.loc[table["group"] == "", "id"].iloc[0]
        raise InputError(f"the picture {picture!r} has no group: give each its slide, or none.")
    given = table["split"].str.lower() if "split" in table else pd.Series("", table.index)
    given = given.map(lambda name: _SPLIT_NAMES.get(name, name))
    if split_by is None:
        if (given == "").any() and (given != "").any():
            picture = table.loc[given == "", "id"].iloc[0]
            raise InputError(f"the picture {picture!r} has no split: give each one, or none.")
        return table.assign(split=given.where(given != "", "train"))
    if split_by not in SPLIT_BY:
        raise InputError(f"--split-by {split_by} is unknown: choose group or picture.")
    if (given != "").any():
        raise InputError("the pictures have splits already: leave out --split-by.")
    if split_by == "group" and "group" not in table:
        raise InputError(
            "no groups are known: give them in --labels (a column group: the slide or patient). A "
            "random split (--split-by picture) leaks: pictures of one slide lie on both sides."
        )
    units = table["group"] if split_by == "group" else table["id"]
    return table.assign(split=units.map(_drawn_splits(units, seed)))


def _drawn_splits(units, seed):
    """Return unit -> split: whole units, until a split has its share of the pictures."""
    sizes = units.value_counts(sort=False)
    order = np.random.default_rng(seed).permutation(len(sizes))
    if len(sizes) < len(SHARES):
        raise InputError(f"{len(sizes)} groups cannot be divided into three splits.")
    counts = sizes.to_numpy()[order]
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    found = np.searchsorted(np.cumsum(SHARES)[:-1], middle)
    # A large group may swallow the share of a split: each keeps at least one group.
    found[-1], found[0] = 2, 0
    if not (found == 1).any():
        found[min(int(np.argmax(found == 2)), len(found) - 2)] = 1
    return dict(zip(sizes.index[order], np.array(sources.SPLITS)[found], strict=True))


def _task_of(table, mpp):
    """Return the task of the pictures, and name of a class -> label."""
    names = set(table["label"])
    if len(names) < 2:
        raise InputError(f"all pictures are of the class {names.pop()!r}: a task needs two.")
    width, height = _first_size(table)
    lower = {name.lower() for name in names}
    of_pcam = next((each for each in _PCAM_NAMES if lower <= set(each)), None)
    scaled = (width * (mpp or PCAM.mpp) / PCAM.mpp) if of_pcam else None
    if of_pcam and round(scaled) == PCAM.side_px:
        indices = {name: of_pcam.index(name.lower()) for name in names}
        return dataclasses.replace(PCAM, name="pictures"), indices
    if mpp is None:
        raise InputError(
            f"the classes {', '.join(sorted(names))} at {width}×{height} px are a task of their "
            "own: give the microns per pixel by --mpp."
        )
    if width != height:
        raise InputError(f"the first picture has {width}×{height} px: patches are square.")
    classes = sorted(names)
    indices = {name: label for label, name in enumerate(classes)}
    return Task("pictures", tuple(classes), side_px=width, mpp=mpp, group="group"), indices


def _first_size(table):
    """Return width and height of the first picture that can be opened."""
    for path in table["path"]:
        try:
            with image_files.opened(path) as picture:
                return picture.picture.size
        except InputError as error:
            reason = error
    raise InputError(f"none of the pictures can be read: {reason}")


def _examples(table, split, described, indices, mpp, left_out) -> Iterator[dict]:
    """Read the pictures of a split one by one; note those that cannot be used."""
    used = 0
    for row in tqdm(table.to_dict("records"), desc=f"preparing {split}", unit=" pictures"):
        try:
            pixels = image_files.read(row["path"], described, mpp).pixels
        except InputError as error:
            left_out.append((str(row["path"]), first_line(error)))
            continue
        if pixels.shape != described.shape:
            height, width = pixels.shape[:2]
            size = f"{width}×{height} px, not {described.side_px}×{described.side_px}"
            left_out.append((str(row["path"]), f"wrong size: {size}"))
            continue
        used += 1
        yield {"id": row["id"], "image": pixels, "label": indices[row["label"]]}
    if not used:
        name, reason = left_out[-1]
        raise InputError(f"no picture of the split {split} can be used, such as {name}: {reason}")


def _write_left_out(left_out, made):
    with written_whole(Path(made) / LEFT_OUT_FILE) as temporary:
        pd.DataFrame(left_out, columns=["picture", "reason"]).to_csv(temporary, index=False)


def _summary(made: tfds.core.DatasetBuilder, table, left_out, split_by) -> str:
    counts = {split: info.num_examples for split, info in made.info.splits.items()}
    lines = [", ".join(f"{count:,} pictures in {split}" for split, count in counts.items())]
    if "group" in table:
        lines.append(f"{table['group'].nunique():,} groups")
    elif split_by == "picture":
        lines.append("drawn at random: pictures of one slide may lie on both sides, which leaks")
    if left_out:
        kinds = pd.Series([reason.split(":")[0] for _, reason in left_out]).value_counts()
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        name = Path(made.data_dir) / LEFT_OUT_FILE
        lines.append(f"left out: {reasons}; see {name}")
    return "\n".join(lines)
