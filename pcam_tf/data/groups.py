"""The slide, and where known the hospital, of each patch: a table beside TFDS's own files."""

from pathlib import Path

import pandas as pd

from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.user_tables import read_csv_as_text

GROUPS_FILE = "groups.csv"
COLUMNS = ("group", "hospital")


def groups_of(builder) -> pd.DataFrame | None:
    """Return what is known of the patches of a prepared source besides their labels.

    Returns:
        Columns `group` and, if known, `hospital`, texts; the index holds the ids. None if the
        source has no `groups.csv`.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(builder.data_dir) / GROUPS_FILE
    if not path.is_file():
        return None
    table = read_csv_as_text(path, ("id", *COLUMNS))
    kept = [column for column in COLUMNS if column in table]
    if "id" not in table or "group" not in kept or table["id"].duplicated().any():
        raise InputError(f"{path} is damaged: it has the columns id,group and each id once.")
    return table.set_index("id")[kept]


def with_groups(table: pd.DataFrame, builder) -> pd.DataFrame:
    """Return a table of patches of a source with the columns of its `groups.csv`.

    A table is returned as it is if nothing is known of its patches, as where only other splits
    have groups.

    Raises:
        InputError: the groups of some patches are known and those of others are not.
    """
    groups = groups_of(builder)
    if groups is None:
        return table
    known = table["id"].isin(groups.index)
    if not known.any():
        return table
    if not known.all():
        missing = table["id"][~known].iloc[0]
        raise InputError(f"{Path(builder.data_dir) / GROUPS_FILE} lacks the patch {missing!r}.")
    return table.join(groups, on="id")


def write_groups(table: pd.DataFrame, version_dir: str | Path) -> None:
    """Write `id`, `group` and, if there, `hospital` of patches beside the files of their source."""
    kept = ["id", *(column for column in COLUMNS if column in table)]
    with written_whole(Path(version_dir) / GROUPS_FILE) as temporary:
        table[kept].to_csv(temporary, index=False)
