"""A small model for fields, to which it makes no difference what is around a patch."""

import json

import keras

from pcam_tf.models import backbones, classifier


def write_run(folder, monkeypatch):
    """Write a run of it into a folder, with a recipe that says that it predicts fields."""

    def network(input_tensor):
        tensor = keras.layers.Conv2D(8, 16, strides=16, activation="relu")(input_tensor)
        return keras.Model(keras.utils.get_source_inputs(input_tensor), tensor)

    small = backbones.Backbone(network, {"scale": 1 / 255})
    monkeypatch.setitem(backbones.BACKBONES, "Blocks", small)
    keras.utils.set_random_seed(0)
    classifier.save(classifier.build(backbone="Blocks", weights=None), folder / "model.keras")
    recipe = {"recipe": {"preset": "slides", "mosaic": 4}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder
