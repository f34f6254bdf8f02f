"""The main remedies with a network that is trained as a whole, on what `data.sampling` mixes."""

import dataclasses
from collections.abc import Callable

import pandas as pd

from pcam_tf import data, prediction, training
from pcam_tf.data import sampling, writing
from pcam_tf.gan import generated, patches, remedies
from pcam_tf.gan.study_design import POSITIVE, SUBSET_SEED, UNFINISHED, Ids, Study
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
        centres, added = _centres(study), []
        if remedy == remedies.OVERSAMPLING:
            added = [sampling.Addition(sampling.Mixture(centres, ids.tumour), share)]
        elif remedy != remedies.PLAIN:
            added = [sampling.Addition(_made(study, generator, missing), share)]
        return sampling.Mixture(centres, [*ids.normal, *ids.tumour], added, seed)

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


def _centres(study):
    """Return a source of the centres of patches, each with its mirror image around it."""
    folder, task = study.folder / "patches" / "all", data.task_of(study.source)

    def cut(images):
        return patches.padded(patches.centre(images, study.side_px), task.side_px)

    if not writing.is_written(folder, task):
        splits = {each: writing.changed(study.source, each, cut) for each in data.SPLITS}
        data.write_source(splits, folder, task)
    return data.open_source(folder)


def _made(study, generator, count):
    """Return a source of generated tumour patches."""
    folder = study.folder / "patches" / f"generated-{generator.digest[:12]}-{count}"
    if not writing.is_written(folder, generator.task):
        name = generator.task.classes[POSITIVE]
        generated.write(generator, folder, {name: count}, SUBSET_SEED)
    return data.open_source(folder)
