"""Recipes: everything that decides what a training does, and the named presets."""

import dataclasses

from pcam_tf.errors import InputError, unknown
from pcam_tf.task import PCAM, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training does, apart from the patches.

    Attributes:
        preset: the name of the preset it started from.
        backbone: a key of `backbones.BACKBONES`, or "ViT" for the network in the file `weights`.
        weights: "imagenet", None (random) or the path of a Keras weights file of the backbone; for
            "ViT" the file of an encoder, see `weights.load_encoder`.
        crop_px: side of the centre crop that the backbone sees; None for the whole patch.
        resize_px: side that the crop is resized to, or None.
        dropout: share of features dropped in training.
        stochastic_depth: how often training skips residual blocks, see `backbones.connect`.
        layer_decay: the unfrozen phase's learning rate falls by this factor from block to block,
            from the head down; 1 for one rate, see `optimization.optimizer`.
        batch_size: patches a step, in both phases.
        epoch_steps: steps of an epoch, in both phases; None for one pass over the training patches.
        stain_strength: strength of `augmentation.RandomStain`; 0 for none.
        rotation_degrees: largest turn of `augmentation.RandomAffine`.
        scaling: largest scaling of `augmentation.RandomAffine`; 1 for none.
        shift_px: largest shift of `augmentation.RandomAffine`.
        surroundings: share of patches that get the surroundings of another, see
            `augmentation.RandomSurroundings`.
        brightness, blur_px, jpeg_quality: see `augmentation.RandomScanner`; 0, 0, 100 for none.
        mosaic: patches a side of the fields that half of the patches are trained within, see
            `mosaics.probabilities`; 1 for none.
        teachers: presets (they are trained first), runs, or "shipped", the shipped model. Their
            log-odds, averaged, are learnt in place of the labels, see
            `distillation.with_teachers`. There is no frozen phase.
        start_from_teacher: with teachers, go on from the weights of the first, which is then of the
            same network; False: start from `weights`.
        label_smoothing: labels become 0 + s/2 and 1 - s/2.
        class_weights: weigh classes inversely to their frequency.
        weight_decay: of AdamW, in both phases.
        frozen_views: augmented views of each training patch whose features are computed once.
        frozen_epochs: passes of the head over those features; 0 for the unfrozen phase only, as
            random weights need it, whose features say nothing.
        frozen_learning_rate: peak rate of the head alone.
        unfrozen_epochs: passes of backbone and head over the training patches; 0 for the frozen
            phase only, which is a linear probe.
        unfrozen_learning_rate: peak rate of backbone and head together.
        warm_up: share of a phase's steps in which the rate rises; then it falls as a cosine.
        averaging: momentum of the running average of the weights, which is what is evaluated and
            saved; 0.99 averages over about the last hundred steps.
        reestimated_batches: batches of training patches from which BatchNormalization's statistics
            are estimated anew for what is evaluated and saved after an unfrozen epoch, see
            `batch_normalization.reestimate`; 0 for the running ones.
        patience: epochs without a better validation AUC after which a phase ends.
        test_time_augmentation: the run's predictions average over the eight views of D4.
        mixed_precision: compute in float16 (GPUs); what is saved is float32 all the same.
        seed: of everything drawn at random.
    """

    preset: str
    backbone: str = "EfficientNetLite0"
    weights: str | None = "imagenet"
    crop_px: int | None = None
    resize_px: int | None = None
    dropout: float = 0.2
    stochastic_depth: float = 0.0
    layer_decay: float = 1.0
    batch_size: int = 64
    epoch_steps: int | None = None
    stain_strength: float = 0.25
    rotation_degrees: float = 0.0
    scaling: float = 1.0
    shift_px: float = 4.0
    surroundings: float = 0.0
    brightness: float = 0.0
    blur_px: float = 0.0
    jpeg_quality: int = 100
    mosaic: int = 1
    teachers: tuple[str, ...] = ()
    start_from_teacher: bool = True
    label_smoothing: float = 0.05
    class_weights: bool = False
    weight_decay: float = 1e-4
    frozen_views: int = 2
    frozen_epochs: int = 10
    frozen_learning_rate: float = 3e-3
    unfrozen_epochs: int = 8
    unfrozen_learning_rate: float = 7e-4
    warm_up: float = 0.1
    averaging: float = 0.995
    reestimated_batches: int = 0
    patience: int = 5
    test_time_augmentation: bool = True
    mixed_precision: bool = False
    seed: int = 0


# What the networks of `strong` have in common. Their rate falls to 0, so none ends early.
_STRONG = Recipe(
    preset="strong",
    resize_px=144,
    batch_size=128,
    stain_strength=0.35,
    rotation_degrees=45.0,
    scaling=1.3,
    brightness=0.2,
    blur_px=1.5,
    jpeg_quality=30,
    weight_decay=0.05,
    unfrozen_learning_rate=1e-3,
    averaging=0.99,
    patience=12,
)
_STRONG_TEACHER = dataclasses.replace(
    _STRONG, dropout=0.3, stochastic_depth=0.1, unfrozen_epochs=12
)

PRESETS = {
    # `make reproduce`: a few minutes on two cores, synthetic test slides, AUC above 0.95.
    "smoke": Recipe(
        preset="smoke",
        crop_px=64,
        frozen_views=1,
        frozen_epochs=10,
        unfrozen_epochs=2,
        averaging=0.9,
        batch_size=32,
        test_time_augmentation=False,
    ),
    # `python -m pcam_tf train --preset cpu --data-dir DIR`: 43 minutes on two busy cores for
    # 20,000 real patches; AUC 0.955 (0.945–0.966) on 1,500 of the official test split.
    "cpu": Recipe(preset="cpu"),
    # `python -m pcam_tf train --preset strong --data-dir DIR` trains both teachers, then the
    # student: an hour and a half on two cores for 20,000 patches (41 + 18 + 30 minutes).
    "strong": dataclasses.replace(
        _STRONG, teachers=("strong-144", "strong-surroundings"), unfrozen_epochs=8
    ),
    "strong-144": dataclasses.replace(_STRONG_TEACHER, preset="strong-144"),
    # Errs differently from the other: it cannot rely on what surrounds the labelled centre.
    "strong-surroundings": dataclasses.replace(
        _STRONG_TEACHER, preset="strong-surroundings", resize_px=None, surroundings=0.5
    ),
    # `python -m pcam_tf train --preset slides --data-dir DIR`: the model of `strong` learns to
    # predict whole fields in one pass, and keeps to what it says of patches. 35 minutes on two
    # cores, after those of its teacher; test AUC 0.967 (0.958–0.974) as that of the shipped model.
    "slides": dataclasses.replace(
        _STRONG,
        preset="slides",
        teachers=("strong",),
        mosaic=4,
        unfrozen_epochs=6,
        unfrozen_learning_rate=3e-4,
    ),
    # `python -m pcam_tf reproduce --preset gpu --data-dir DIR`, full PCam: not measured yet.
    "gpu": Recipe(preset="gpu", batch_size=256, mixed_precision=True),
}


def preset(name: str) -> Recipe:
    """Return the recipe of a preset, a key of `PRESETS`.

    Raises:
        InputError: there is no such preset; the message suggests the nearest.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def check_patches(preset: str, *, real: bool) -> None:
    """Refuse synthetic patches for any preset but "smoke".

    Their result would stand under the name of a preset that is for real patches, and figures of
    real patches would be overwritten.

    Args:
        preset: of a recipe; a recipe of no preset is free to be tried on anything.
        real: whether the patches are real ones.

    Raises:
        InputError: the preset needs real patches.
    """
    if preset in PRESETS and preset != "smoke" and not real:
        raise InputError(
            f"the preset {preset} needs real patches: set PCAM_TF_DATA_DIR or --data-dir to a "
            "prepared data directory, or choose the preset smoke for synthetic patches."
        )


def from_json(content: dict, task: Task = PCAM) -> Recipe:
    """Return the recipe that a `recipe.json` describes; what is missing in it has its default.

    Args:
        content: the recipe as a dictionary.
        task: the run's; a crop of its whole side is no crop.

    Raises:
        InputError: it holds something that no recipe has.
    """
    content = content | {"teachers": tuple(content.get("teachers", ()))}
    # Recipes of earlier versions hold this field: 0 says that it was not used.
    if content.get("unresized_epochs") == 0:
        del content["unresized_epochs"]
    if content.get("crop_px") == task.side_px:
        content["crop_px"] = None
    try:
        return Recipe(**content)
    except TypeError as error:
        raise InputError(f"not a recipe of this version ({error}).") from error
