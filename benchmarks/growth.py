"""Seconds and peak memory of each command for growing data: constant memory, proportional time.

Patches are synthetic: a few drawn ones, repeated, written as the official HDF5 files. `train` uses
the shipped network on a centre crop of 32 px, because growth with the data does not depend on the
size of the crop. Each command is a process of its own, whose peak resident memory the system
reports.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

from benchmarks import small_network
from benchmarks.rows import row
from pcam_tf import data, synthetic

FILE_SPLITS = ("train", "valid", "test")
COUNTS = {"smoke": (256,), "full": (2_000, 8_000, 20_000, 65_536)}
# An unfrozen epoch of more takes long, and its memory is that of the frozen one and of a shuffle
# that is full by then.
MOST_UNFROZEN = data.SHUFFLE_PATCHES
# These read each patch many times over: some patches a second.
STUDIES = ("novelty", "robustness")
MOST_STUDIED = 8_000
_TRAIN = """
import dataclasses, sys
from benchmarks import small_network
from pcam_tf import data, training
from pcam_tf.training import recipes
small_network.register()
recipe = dataclasses.replace(
    recipes.preset("smoke"), backbone=sys.argv[3], weights=None, crop_px=32, batch_size=64,
    frozen_epochs=1, unfrozen_epochs=int(sys.argv[4]),
)
training.train(recipe, data.open_source(sys.argv[1]), sys.argv[2])
"""


def write_hdf5(folder, patches):
    """Write official files with `patches` training patches and 256 of each other split."""
    drawn = synthetic.draw_patches(256, split="train")
    for split in FILE_SPLITS:
        count = patches if split == "train" else 256
        with (
            h5py.File(folder / f"camelyonpatch_level_2_split_{split}_x.h5", "w") as images,
            h5py.File(folder / f"camelyonpatch_level_2_split_{split}_y.h5", "w") as labels,
        ):
            x = images.create_dataset("x", (count, 96, 96, 3), "uint8")
            y = labels.create_dataset("y", (count, 1, 1, 1), "uint8")
            for first in range(0, count, 256):
                last = min(first + 256, count)
                x[first:last] = drawn.image[: last - first]
                y[first:last] = drawn.label[: last - first].reshape(-1, 1, 1, 1)


def measured(words):
    """Run a command and return its seconds and the peak of its resident memory in MiB.

    Raises:
        RuntimeError: the command failed; with the end of its messages.
    """
    program = (
        "import resource, subprocess, sys\n"
        "ended = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(ended.returncode, peak, ended.stderr[-500:])\n"
    )
    started = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    ).stdout
    seconds = time.perf_counter() - started
    status, peak, said = answer.split(" ", 2)
    if status != "0":
        raise RuntimeError(f"{' '.join(words[:5])} ended with {status}: {said}")
    # The system counts in KiB, macOS in bytes.
    return seconds, int(peak) / (1024 * 1024 if sys.platform == "darwin" else 1024)


def stages(patches, backbone, epochs=(0, 1), studied=None):
    """Return command -> (seconds, MiB) for a number of training patches.

    Args:
        patches: how many.
        backbone: of what is trained.
        epochs: of the unfrozen phase, one training for each number.
        studied: how many of the patches the studies read; None for all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_hdf5(folder, patches)
        command = [sys.executable, "-m", "pcam_tf"]
        prepared = str(folder / "prepared")
        found = {
            "prepare": measured([*command, "prepare", "--from-hdf5", name, "--data-dir", prepared])
        }
        for unfrozen in epochs if patches <= MOST_UNFROZEN else (0,):
            words = [prepared, str(folder / f"run-{unfrozen}"), backbone, str(unfrozen)]
            found[f"train, 1 frozen epoch, {unfrozen} unfrozen"] = measured(
                [sys.executable, "-c", _TRAIN, *words]
            )
        table, known = folder / "table.csv", ["--data-dir", prepared, "--split"]
        words = ["train", "--no-test-time-augmentation", "--output", str(table)]
        found["predict"] = measured([*command, "predict", *known, *words])
        lines = len(table.read_text(encoding="utf-8").splitlines())
        if lines != patches + 1:
            raise RuntimeError(f"{lines - 1} predictions of {patches} patches")
        for study in STUDIES if patches <= MOST_STUDIED else ():
            output = ["--output", str(folder / "levels.csv")] if study == "robustness" else []
            what = f"{study} of {studied}" if studied else study
            split = f"train[:{studied or patches}]"
            found[what] = measured([*command, study, *known, split, *output])
    return found


def rows(size):
    """Return the rows of the table; see `benchmarks.rows.row`."""
    counts = COUNTS[size]
    by_count = {}
    for count in counts:
        epochs, studied = ((1,), 16) if size == "smoke" else ((0, 1), None)
        by_count[count] = stages(count, small_network.backbone(size), epochs, studied)
        print(f"{count:,} patches: {by_count[count]}", flush=True)
    found = []
    for stage in by_count[counts[0]]:
        for count in counts:
            if stage not in by_count[count]:
                continue
            seconds, peak = by_count[count][stage]
            found.append(row(f"{stage}, {count:,} patches", "s", [seconds]))
            found.append(row(f"{stage}, {count:,} patches, peak memory", "MiB", [peak]))
    return found
