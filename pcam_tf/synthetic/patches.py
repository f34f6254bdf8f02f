"""Procedural H&E patches with known ground truth, readable as TFDS's `patch_camelyon`.

Lymph node at 10× (0.97 mpp) with and without nests of carcinoma, drawn as densities of two stains
and photographed by the Beer–Lambert model of `stain`. Every pixel's stains and whether it is
tumour are known, so explanations and stain separation can be held against the truth. No patch
copies a real one. A number learnt here says that the code works, not that it finds cancer.

Lengths are pixels, about a micron each.
"""

import contextlib
import dataclasses
import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils
from tqdm import tqdm

from pcam_tf.errors import InputError, unknown
from pcam_tf.synthetic import nuclei, section, tissue
from pcam_tf.task import PCAM

CENTRE = PCAM.centre  # PCam labels a patch by these rows and columns alone
SLIDES = {"train": range(12), "validation": range(12, 16), "test": range(16, 22)}
_ID_PREFIXES = {"train": "train", "validation": "valid", "test": "test"}  # as tfds names PCam's
_SORTED = 4  # slides of a split, at most, where they are sorted
_STRAYS = 0.02  # patches of sorted slides that are not what most of their slide is
_CHUNK = 128  # patches drawn at once: few enough for memory, enough to share a bank of nuclei


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches:
    """N patches and all that is true of them, as arrays with one row a patch.

    Up to vignetting (a few per cent) and noise, `image` is
    `stain.mix(densities, stain_vectors[:, None, None], background[:, None, None])`.
    """

    image: np.ndarray  # uint8 (N, 96, 96, 3)
    label: np.ndarray  # int64 (N,): 1 where the centre 32×32 px hold tumour
    tumour_mask: np.ndarray  # bool (N, 96, 96)
    tumour_nuclei: np.ndarray  # bool (N, 96, 96), within tumour_mask
    densities: np.ndarray  # float32 (N, 96, 96, 2): haematoxylin, eosin, after the lens's blur
    slide: np.ndarray  # int64 (N,), one of SLIDES[split]
    stain_vectors: np.ndarray  # float32 (N, 2, 3), the slide's
    background: np.ndarray  # float32 (N, 3), the slide's grey level of light without tissue


def draw_patches(count: int, *, split: str, seed: int = 0, sorted_slides: bool = False) -> Patches:
    """Draw the first `count` patches of `split`, about half of them tumour.

    Patch i depends on `seed`, `split` and i alone, not on `count`. The splits' slides are
    disjoint. Every slide is half tumour; or, with `sorted_slides`, a split has four slides, two of
    them nearly all tumour and two nearly all normal, so that to know a slide is nearly to know the
    label. Memory is about 120 KB a patch, twice that
    while joining; `draw_chunks` bounds it.

    Raises:
        InputError: an unknown split, or a count or seed below what can be drawn.
    """
    chunks = list(draw_chunks(count, split=split, seed=seed, sorted_slides=sorted_slides))
    names = [field.name for field in dataclasses.fields(Patches)]
    return Patches(**{name: np.concatenate([getattr(c, name) for c in chunks]) for name in names})


def draw_chunks(
    count: int, *, split: str, seed: int = 0, sorted_slides: bool = False
) -> Iterator[Patches]:
    """Yield the patches of `draw_patches` in order, at most 128 at a time.

    Raises:
        InputError: an unknown split, or a count or seed below what can be drawn.
    """
    if split not in SLIDES:
        raise unknown("split", split, SLIDES)
    if count < 1 or seed < 0:
        raise InputError(f"count {count}, seed {seed}: count must be above 0, seed 0 or above.")
    # A split's slides and chunks have their own seeds, which differ in the second number.
    slides = [
        section.draw_slide(np.random.default_rng([seed, len(SLIDES), slide]))
        for slide in SLIDES[split]
    ]
    for chunk, first in enumerate(range(0, count, _CHUNK)):
        patches = _draw_chunk(split, slides, seed=seed, chunk=chunk, sorted_slides=sorted_slides)
        wanted = slice(min(_CHUNK, count - first))
        yield Patches(**{name: array[wanted] for name, array in vars(patches).items()})


def _draw_chunk(
    split: str, slides: list[section.Slide], *, seed: int, chunk: int, sorted_slides: bool
) -> Patches:
    """Draw one whole chunk of `split`: tissue, then cells, then stains, then the photograph."""
    rng = np.random.default_rng([seed, list(SLIDES).index(split), chunk])
    # One of each class in every pair, so that any number of patches is balanced.
    positive = rng.permuted(np.tile([False, True], (_CHUNK // 2, 1)), axis=1).ravel()
    which = rng.integers(len(slides), size=_CHUNK)
    if sorted_slides:
        expected = positive ^ (rng.random(_CHUNK) < _STRAYS)
        which = which % _SORTED // 2 * 2 + expected
    slide = section.slides_of(slides, which)
    noise = tissue.draw_noise(rng)
    nests = tissue.draw_nests(rng, noise, positive)
    host = tissue.draw_host(rng, noise, nests, slide.tissue_shares)
    cells = nuclei.draw_cells(
        rng, noise, nests, host,
        tumour_scale=slide.tumour_scale, histiocyte_share=slide.histiocyte_share,
    )  # fmt: skip
    densities = section.draw_densities(rng, noise, nests, host, cells, slide)
    mask = (nests.depth > 0) | cells.tumour_nuclei
    return Patches(
        image=section.photograph(rng, noise, densities, slide),
        label=mask[:, CENTRE, CENTRE].any(axis=(1, 2)).astype(np.int64),
        tumour_mask=mask,
        tumour_nuclei=cells.tumour_nuclei,
        densities=densities,
        slide=np.asarray(SLIDES[split])[which],
        stain_vectors=slide.stain_vectors,
        background=slide.background,
    )


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """How many patches of each split to draw, from which seed and what kind of slides."""

    seed: int
    train: int
    validation: int
    test: int
    sorted_slides: bool = False


def config_of(
    *, seed: int, train: int, validation: int, test: int, sorted_slides: bool = False
) -> SyntheticConfig:
    """Return a config whose name tells what it draws, so that no two share a directory."""
    slides = "_sorted" if sorted_slides else ""
    return SyntheticConfig(
        name=f"seed{seed}_{train}_{validation}_{test}{slides}",
        description=f"{train}/{validation}/{test} patches of seed {seed}.",
        seed=seed, train=train, validation=validation, test=test, sorted_slides=sorted_slides,
    )  # fmt: skip


class SyntheticPatchCamelyon(tfds.core.GeneratorBasedBuilder):
    """Synthetic lymph-node patches with the features of TFDS's `patch_camelyon`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it from the class)
    BUILDER_CONFIGS = [  # noqa: RUF012 (likewise)
        SyntheticConfig(
            name="smoke",
            description="Enough to train on in minutes.",
            seed=0, train=2048, validation=512, test=1024,
        ),
    ]  # fmt: skip

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural H&E lymph-node patches, with and without tumour; none is real.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=PCAM.shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=len(PCAM.classes)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SLIDES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config, row = self.builder_config, 0
        count = getattr(config, split)
        with tqdm(total=count, desc=f"drawing {split}", unit="patch") as bar:
            for patches in draw_chunks(
                count, split=split, seed=config.seed, sorted_slides=config.sorted_slides
            ):
                for image, label in zip(patches.image, patches.label, strict=True):
                    name = f"{_ID_PREFIXES[split]}_{row}"
                    yield row, {"id": name, "image": image, "label": int(label)}
                    row += 1
                bar.update(len(patches.image))


def builder(
    data_dir: str | Path, config: str | SyntheticConfig = "smoke"
) -> SyntheticPatchCamelyon:
    """Return a prepared builder under `data_dir`, drawing its patches first if need be.

    Reaches no network. A preparation that is killed leaves nothing that a later call would read,
    and calls from an hour later on remove what it leaves.

    Raises:
        InputError: there is no config of that name, or `data_dir` cannot be written.
    """
    names = list(SyntheticPatchCamelyon.builder_configs)
    if isinstance(config, str) and config not in names:
        raise unknown("synthetic config", config, names)
    data_dir = Path(data_dir).expanduser()
    try:
        prepared = SyntheticPatchCamelyon(data_dir=str(data_dir), config=config)
        _remove_leftovers(Path(prepared.data_dir))
        with quiet_tfds():
            prepared.download_and_prepare(
                download_dir=data_dir,  # it and `extract_dir` would else be made, and stay empty
                download_config=tfds.download.DownloadConfig(
                    extract_dir=data_dir, try_download_gcs=False
                ),
            )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write synthetic patches to {data_dir}: {reason}; choose a writable folder."
        ) from error
    return prepared


def _remove_leftovers(version_dir: Path) -> None:
    """Remove what killed preparations of `version_dir` left, once it has been still for an hour.

    A younger folder may be that of another process which is drawing the same patches now.
    """
    for leftover in version_dir.parent.glob(f"incomplete.*_{version_dir.name}"):
        with contextlib.suppress(OSError):  # gone meanwhile, or ours to read only
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keep TFDS from printing: standard output belongs to the results of our commands."""
    shown = tqdm_utils._active
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(shown)
