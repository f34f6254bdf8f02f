"""Several slides, one after the other: a damaged one does not stop the rest."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import tqdm

from pcam_tf import files
from pcam_tf.errors import InputError
from pcam_tf.slides import reader

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of several slides."""

    finished: dict[str, int]  # number of tissue cells by the slide's name
    failed: dict[str, str]  # why, in one line, by the slide's name


def folders_of(paths: Sequence[str | Path], output: str | Path) -> dict[Path, Path]:
    """Return the folder of results of each slide: `output/<slide's name>`.

    Raises:
        InputError: there is none, two have the same name, or a path is a folder or not UTF-8.
    """
    folders = {}
    for path in map(Path, paths):
        files.check_name(path)
        if path.is_dir():
            raise InputError(
                f"{path} is a folder: give the slides in it, such as {path / '*.svs'}."
            )
        folder = Path(output) / reader.name_of(path)
        if folder in folders.values():
            raise InputError(
                f"two slides are called {folder.name}: the results of both would be in {folder}."
            )
        folders[path] = folder
    if not folders:
        raise InputError("no slide was given.")
    return folders


def shard_of(paths: Sequence[str | Path], shard: tuple[int, int]) -> list[str | Path]:
    """Return the slides of one part of several, in turn: every slide is in one part.

    Args:
        paths: of all slides, in the same order for every part.
        shard: number, from 1, and count, see `prediction.shards.parse`.

    Raises:
        InputError: there are more parts than slides.
    """
    number, count = shard
    if count > len(paths):
        raise InputError(f"{len(paths)} slides make at most {len(paths)} shards, not {count}.")
    return list(paths)[number - 1 :: count]


def run(folders: dict[Path, Path], predict_slide: Callable[[Path, Path, Callable], int]) -> Outcome:
    """Predict slides one after the other, with progress and the time left; go on after a failure.

    Args:
        folders: the folder of results of each slide.
        predict_slide: from a slide, its folder and a function that is told of progress (cells done,
            all) to the number of tissue cells; `InputError` if that slide cannot be predicted.
    """
    outcome = Outcome({}, {})
    for number, (path, folder) in enumerate(folders.items(), start=1):
        of = f" ({number} of {len(folders)})" if len(folders) > 1 else ""
        with tqdm.tqdm(desc=f"{folder.name}{of}", unit="cell", total=0) as bar:
            try:
                outcome.finished[folder.name] = predict_slide(path, folder, _told(bar))
            except InputError as error:
                outcome.failed[folder.name] = str(error)
        if folder.name in outcome.failed and len(folders) > 1:
            log.warning("failed: %s: %s", folder.name, outcome.failed[folder.name])
    return outcome


def _told(bar):
    """Return a function that moves a bar; what was done before does not count for its speed."""

    def tell(done, total):
        if bar.total != total:
            bar.reset(total)
            bar.initial = bar.n = done
        bar.update(done - bar.n)

    return tell
