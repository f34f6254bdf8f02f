"""What a source of patches holds: counts, colours, blanks, duplicates, leaks between splits.

Patches stream through once; a 16-byte digest and a 192-byte thumbnail of each are kept, so the
327,680 patches of PCam need some hundred megabytes, not their nine gigabytes of pixels.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pcam_tf.errors import InputError
from pcam_tf.task import PCAM, Task

# A thumbnail is 8×8 means, of a 96 px patch over 12×12 px: coarser than JPEG's blocks, so that
# compression hardly moves it.
THUMBNAIL_PX = 8
# PCam kept no patch whose maximum saturation, blurred, was below 0.07 (Veeling et al. 2018).
BLANK_SATURATION = 0.07
# Root mean square difference of two thumbnails, in grey levels. Of 1,500 PCam patches recompressed
# as JPEG of quality 75, all lay within 1.4 of their originals (quality 50: 99 % within 1.92); of
# 19,000 different PCam patches no two were nearer than 2.2, and those were almost featureless.
NEAR_RMS = 2.0
# Leading principal components that the search tree sees, and neighbours it returns for a patch;
# a projection only brings patches nearer, so the tree loses none that the thumbnails would find.
TREE_COMPONENTS = 24
TREE_NEIGHBOURS = 8
EXAMPLES = 10


def audit(
    batches_by_split: Mapping[str, Iterable[Mapping[str, np.ndarray]]],
    task: Task = PCAM,
    groups: pd.Series | None = None,
) -> dict:
    """Count what the splits hold, and find copies within and across them.

    *Exact* duplicates have the same pixels. *Near* duplicates have different pixels and thumbnails
    (8×8 means in each colour) at most `NEAR_RMS` apart, directly or through a chain: the same
    patch compressed anew, or with slight noise. Shifted, turned, flipped or restained copies are
    not found. Blank patches, which resemble each other, are left out of the near duplicates. A
    patch is *blank* by PCam's own rule for background: maximum saturation (max - min) / max of
    the thumbnail below `BLANK_SATURATION`.

    Args:
        batches_by_split: split -> batches of `id` (B, text), `image` (B, side, side, 3 uint8) and
            `label` (B, an index into the task's classes).
        task: side of a patch, names of its classes and of its unit of grouping.
        groups: the group, such as the slide, of each patch, text; the index holds the ids. Patches
            that are not in it count as of unknown group.

    Returns:
        JSON-able: `splits` (for each: patches, a count under each class's name, blank, channel_mean
        and channel_std of R, G, B in 0..255, histograms 3×256); `exact_duplicates` and
        `near_duplicates` (each: `within` a split: groups, patches in them, copies = patches beyond
        the first of each group; `across` "train/validation" and so on: groups in both, their
        patches; `examples`, ids); `label_conflicts` (groups of exact duplicates with different
        labels); `id_clashes` (ids that occur more than once `within` a split; ids that occur
        `across` two); with `groups` also `groups` (`unit`; `within` a split: groups, patches of
        known group, those of the smallest and the largest; `across` two: groups in both, their
        patches; `examples`).

    Raises:
        InputError: a split is empty, or its patches or labels are not the task's.
    """
    splits, parts, thumbnails = {}, [], []
    for split, batches in batches_by_split.items():
        splits[split], patches, split_thumbnails = _read_split(split, batches, task)
        parts.append(patches)
        thumbnails.append(split_thumbnails)
    if not parts:
        raise InputError("there is no split to audit; give at least one.")
    patches = pd.concat(parts, ignore_index=True)
    patches["exact"] = pd.factorize(patches["digest"])[0]
    patches["near"] = _near_groups(patches, np.concatenate(thumbnails))
    patches["patch"] = np.arange(len(patches))
    names = list(batches_by_split)
    return {
        "splits": splits,
        "exact_duplicates": _duplicates(patches, names, group="exact", member="patch"),
        "near_duplicates": _duplicates(
            patches[patches["near"] >= 0].drop_duplicates(["split", "exact"]),
            names,
            group="near",
            member="exact",
        ),
        "label_conflicts": _label_conflicts(patches),
        "id_clashes": _id_clashes(patches, names),
    } | ({} if groups is None else {"groups": _shared_groups(patches, names, groups, task.group)})


def _read_split(split: str, batches: Iterable, task: Task) -> tuple[dict, pd.DataFrame, np.ndarray]:
    """Return a split's statistics, its patches' table and thumbnails (N, 8, 8, 3 uint8)."""
    ids, labels, digests, thumbnails = [], [], [], []
    histograms = np.zeros((3, 256), np.int64)
    for batch in batches:
        images, batch_labels = np.asarray(batch["image"]), np.asarray(batch["label"])
        if images.dtype != np.uint8 or images.shape[1:] != task.shape:
            side = task.side_px
            raise InputError(
                f"split {split!r} has patches {images.dtype} {images.shape}, "
                f"not uint8 (B, {side}, {side}, 3); prepare the data anew."
            )
        if not np.isin(batch_labels, range(len(task.classes))).all():
            known = " and ".join(map(str, range(len(task.classes))))
            raise InputError(f"split {split!r} has labels other than {known}; prepare it anew.")
        ids += [i.decode() if isinstance(i, bytes) else str(i) for i in np.asarray(batch["id"])]
        labels.append(batch_labels)
        digests += [hashlib.blake2b(image, digest_size=16).digest() for image in images]
        thumbnails.append(_thumbnails(images))
        for channel in range(3):
            values = images[..., channel].ravel()
            histograms[channel] += np.bincount(values, minlength=256)
    if not ids:
        raise InputError(f"split {split!r} has no patches; prepare the data anew.")
    labels, thumbnails = np.concatenate(labels), np.concatenate(thumbnails)
    blank = _are_blank(thumbnails)
    table = pd.DataFrame({"id": ids, "label": labels, "digest": digests, "blank": blank})
    table.insert(0, "split", split)
    return _statistics(labels, blank, histograms, task.classes), table, thumbnails


def is_blank(images: np.ndarray) -> np.ndarray:
    """Return which patches, (n, side, side, 3) uint8, are blank by PCam's rule, bool (n,)."""
    return _are_blank(_thumbnails(images))


def _are_blank(thumbnails):
    return saturation(thumbnails).max(axis=(1, 2)) < BLANK_SATURATION


def saturation(images: np.ndarray) -> np.ndarray:
    """Return the saturation (max - min) / max of each pixel of RGB 0..255, (..., 3) to (...)."""
    brightest = images.max(axis=-1).astype(float)
    return (brightest - images.min(axis=-1)) / np.maximum(brightest, 1)


def _thumbnails(images: np.ndarray) -> np.ndarray:
    cell_px = images.shape[1] // THUMBNAIL_PX
    images = images[:, : THUMBNAIL_PX * cell_px, : THUMBNAIL_PX * cell_px]
    cells = images.reshape(-1, THUMBNAIL_PX, cell_px, THUMBNAIL_PX, cell_px, 3)
    return np.rint(cells.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _statistics(
    labels: np.ndarray, blank: np.ndarray, histograms: np.ndarray, classes: Sequence[str]
) -> dict:
    values = np.arange(256)
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return {
        "patches": len(labels),
        **{name: int((labels == label).sum()) for label, name in enumerate(classes)},
        "blank": {
            name: int((blank & (labels == label)).sum()) for label, name in enumerate(classes)
        },
        "channel_mean": mean.tolist(),
        "channel_std": np.sqrt(variance).tolist(),
        "histograms": histograms.tolist(),
    }


def _near_groups(patches: pd.DataFrame, thumbnails: np.ndarray) -> np.ndarray:
    """Return each patch's group of near duplicates (N,), -1 where it has none.

    Different contents are searched, one patch for each: a tree over the leading principal
    components proposes neighbours, the whole thumbnails decide.
    """
    groups = np.full(len(patches), -1)
    searched = patches[~patches["blank"]].drop_duplicates("exact")
    if len(searched) < 2:
        return groups
    signatures = thumbnails[searched.index].reshape(len(searched), -1)
    centred = signatures - signatures.mean(axis=0, dtype=np.float32)
    _, directions = np.linalg.eigh(centred.T @ centred)
    projected = centred @ directions[:, -TREE_COMPONENTS:]
    reach = NEAR_RMS * np.sqrt(signatures.shape[1])
    # The slack is for float32: a patch on the very edge is proposed, and then decided upon.
    _, neighbours = cKDTree(projected).query(
        projected, k=TREE_NEIGHBOURS, distance_upper_bound=reach * 1.001
    )
    first, rank = np.nonzero(neighbours < len(searched))
    second = neighbours[first, rank]
    first, second = first[first != second], second[first != second]
    near = [_rms(centred, first[i : i + 4096], second[i : i + 4096]) <= NEAR_RMS
            for i in range(0, len(first), 4096)]  # fmt: skip
    near = np.concatenate([np.zeros(0, bool), *near])
    links = coo_array(
        (near[near], (first[near], second[near])), shape=(len(searched), len(searched))
    )
    _, component = connected_components(links, directed=False)
    alone = np.bincount(component)[component] == 1
    group_of_content = pd.Series(np.where(alone, -1, component), index=searched["exact"])
    return patches["exact"].map(group_of_content).fillna(-1).astype(int).to_numpy()


def _rms(signatures: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((signatures[first] - signatures[second]) ** 2, axis=1))


def _duplicates(patches: pd.DataFrame, splits: list[str], *, group: str, member: str) -> dict:
    """Count groups that have at least two different members within a split, or across two."""
    within = {}
    for split in splits:
        sizes = patches.loc[patches["split"] == split, group].value_counts()
        sizes = sizes[sizes > 1]
        within[split] = {
            "groups": len(sizes),
            "patches": int(sizes.sum()),
            "copies": int(sizes.sum() - len(sizes)),
        }
    across = {
        pair: {"groups": found[group].nunique(), "patches": len(found)}
        for pair, found in _shared(patches, splits, group, member).items()
    }
    grouped = patches[patches.duplicated(group, keep=False)].groupby(group, sort=False)["id"]
    examples = [ids.tolist() for _, ids in itertools.islice(grouped, EXAMPLES)]
    return {"within": within, "across": across, "examples": examples}


def _shared(patches, splits, group, member):
    """Return the patches of the groups that each pair of splits shares, by "train/validation"."""
    shared = {}
    for pair in itertools.combinations(splits, 2):
        both = patches[patches["split"].isin(pair)]
        groups = both.groupby(group).agg(splits=("split", "nunique"), members=(member, "nunique"))
        names = groups.index[(groups["splits"] == 2) & (groups["members"] > 1)]
        shared["/".join(pair)] = both[both[group].isin(names)]
    return shared


def _label_conflicts(patches: pd.DataFrame) -> dict:
    labels = patches.groupby("exact")["label"].transform("nunique")
    conflicts = patches[labels > 1].groupby("exact", sort=False)
    return {
        "groups": conflicts.ngroups,
        "patches": int((labels > 1).sum()),
        "examples": [
            [{"id": row.id, "label": int(row.label)} for row in rows.itertuples()]
            for _, rows in itertools.islice(conflicts, EXAMPLES)
        ],
    }


def _id_clashes(patches: pd.DataFrame, splits: list[str]) -> dict:
    ids = {split: patches.loc[patches["split"] == split, "id"] for split in splits}
    repeated = {split: set(of[of.duplicated()]) for split, of in ids.items()}
    shared = {
        "/".join(pair): set(ids[pair[0]]) & set(ids[pair[1]])
        for pair in itertools.combinations(splits, 2)
    }
    everything = set().union(*repeated.values(), *shared.values())
    return {
        "within": {split: len(clashes) for split, clashes in repeated.items()},
        "across": {pair: len(clashes) for pair, clashes in shared.items()},
        "examples": sorted(everything)[:EXAMPLES],
    }


def _shared_groups(patches, splits, groups, unit):
    """Count the groups of each split, and those that two splits share."""
    patches = patches.assign(group=patches["id"].map(groups)).dropna(subset="group")
    within = {}
    for split in splits:
        sizes = patches.loc[patches["split"] == split, "group"].value_counts()
        within[split] = {
            "groups": len(sizes),
            "patches": int(sizes.sum()),
            "smallest": int(sizes.min()) if len(sizes) else 0,
            "largest": int(sizes.max()) if len(sizes) else 0,
        }
    shared = _shared(patches, splits, "group", "patch")
    names = {pair: set(of["group"]) for pair, of in shared.items()}
    return {
        "unit": unit,
        "within": within,
        "across": {
            pair: {"groups": len(names[pair]), "patches": len(of)} for pair, of in shared.items()
        },
        "examples": sorted(set().union(*names.values()))[:EXAMPLES],
    }
