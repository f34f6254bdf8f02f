"""The main remedies with a network that is trained as a whole, on what `data.sampling` mixes."""

import dataclasses
from collections.abc import Callable

import pandas as pd

from pcam_tf import data, prediction, training
from pcam_tf.data import sampling, writing
from pcam_tf.gan import generated, patches, remedies
from pcam_tf.gan.study_design import POSITIVE, SUBSET_SEED, UNFINISHED, Ids, Study, digest
from pcam_tf.models import classifier
from pcam_tf.training import recipes

REMEDIES = (remedies.PLAIN, remedies.OVERSAMPLING, remedies.GENERATED[0])
# What the networks of a remedy differ in, of a recipe.
_AUGMENTATION = (
    "stain_strength", "rotation_degrees", "scaling", "brightness", "blur_px", "jpeg_quality",
)  # fmt: skip


def recipe_of(preset: str, side_px: int) -> recipes.Recipe:
    """Return the recipe of plain and generated patches: a preset's, shortened, of the centre.

    All remedies take the same steps, and the network of the last one is judged. Labels are not
    smoothed, which would be more than the prevalence where that is low.

    Raises:
        InputError: there is no such preset.
    """
    epochs = 2
    chosen = dataclasses.replace(
        recipes.preset(preset),
        crop_px=side_px,
        resize_px=2 * side_px,
        label_smoothing=0.0,
        epoch_steps=150,
        reestimated_batches=16,
        frozen_views=1,
        frozen_epochs=2,
        unfrozen_epochs=epochs,
        patience=epochs,
        averaging=0.98,
        test_time_augmentation=False,
    )
    return dataclasses.replace(chosen, epoch_steps=10) if preset == "smoke" else chosen


def predictor(
    study: Study, ids: Ids, generator: generated.Generator | None
) -> Callable[[str, int], dict[str, pd.DataFrame]]:
    """Return a function from a remedy and a seed to the predictions table of each split.

    Around the centre, real patches have its mirror image, as generated ones do, so that no shift
    or turn tells them apart. plain: the patches as they are. oversampling + augmentation: tumour
    patches are repeated until there are as many as normal ones, with the augmentation of the preset
    `strong`. generated: generated tumour patches up to a balance.

    Args:
        study: with `recipe`.
        ids: of the training patches of the prevalence.
        generator: that has seen the same, or None.
    """
    missing = len(ids.normal) - len(ids.tumour)
    share = missing / (2 * len(ids.normal))

    def mixture(remedy, seed):
        added = []
        if remedy == remedies.OVERSAMPLING:
            added = [sampling.Addition(_centres(study, ids.tumour), share)]
        elif remedy != remedies.PLAIN:
            added = [sampling.Addition(_made(study, generator, missing), share)]
        return sampling.Mixture(_centres(study), [*ids.normal, *ids.tumour], added, seed)

    def predict(remedy, seed):
        recipe = dataclasses.replace(study.recipe, seed=seed)
        if remedy == remedies.OVERSAMPLING:
            strong = recipes.preset("strong")
            recipe = dataclasses.replace(
                recipe, **{name: getattr(strong, name) for name in _AUGMENTATION}
            )
        folder = study.folder / UNFINISHED / f"{len(ids.tumour)}-{remedy}-{seed}"

        def keep(model, _):
            classifier.save(model, folder / "last.keras")

        training.train(recipe, mixture(remedy, seed), folder, after_epoch=keep)
        model = classifier.load(folder / "last.keras")
        return {
            split: prediction.predict_split(model, study.source, split) for split in study.splits
        }

    return predict


def _centres(study, ids=None):
    """Return a source of the centres of patches; with ids, of these training patches alone."""
    name = "all" if ids is None else f"tumour-{digest(ids)[:12]}"
    folder, task = study.folder / "patches" / name, data.task_of(study.source)
    if not writing.is_written(folder, task):
        splits = data.SPLITS if ids is None else [sampling.TRAIN]
        data.write_source({each: _cut(study, task, each, ids) for each in splits}, folder, task)
    return data.open_source(folder)


def _cut(study, task, split, ids):
    """Yield patches: their centre, with its mirror image around it."""
    wanted = None if ids is None else set(ids)
    for batch in data.arrays(data.batches(study.source, split, batch_size=256)):
        images = patches.padded(patches.centre(batch["image"], study.side_px), task.side_px)
        for name, image, label in zip(batch["id"], images, batch["label"], strict=True):
            if wanted is None or name in wanted:
                yield {"id": str(name), "image": image, "label": int(label)}


def _made(study, generator, count):
    """Return a source of generated tumour patches."""
    folder = study.folder / "patches" / f"generated-{generator.digest[:12]}-{count}"
    if not writing.is_written(folder, generator.task):
        name = generator.task.classes[POSITIVE]
        generated.write(generator, folder, {name: count}, SUBSET_SEED)
    return data.open_source(folder)
