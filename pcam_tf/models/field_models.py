"""Fully convolutional feature extractors: fields of any size in, pooled features out."""

import keras

from pcam_tf.models import backbones, copies

LAST, ALL_BLOCKS = "last", "all blocks"


def field_extractor(
    classifier: keras.Model | None = None,
    *,
    backbone: str = "EfficientNetLite0",
    layers: str = LAST,
) -> keras.Model:
    """Return a frozen backbone that takes whole fields.

    Args:
        classifier: whose weights to use; it has this backbone. None for ImageNet's.
        backbone: a key of `backbones.BACKBONES`.
        layers: "last" for the pooled features of the last layer; "all blocks" to put the mean of
            each residual sum before them. Early layers hold texture, which transfers further.

    Returns:
        A model from (batch, height, width, 3), RGB 0..255, to float32 (batch, features).
    """
    fields = keras.Input((None, None, 3), dtype="float32", name="field")
    weights = "imagenet" if classifier is None else None
    features = backbones.connect(backbone, fields, weights=weights).pooled
    network = keras.Model(fields, features)
    if classifier is not None:
        for layer in network.layers:
            if layer.weights:
                copies.set_weights(layer, classifier.get_layer(layer.name).get_weights())
    if layers == ALL_BLOCKS:
        pool = keras.layers.GlobalAveragePooling2D
        features = keras.layers.Concatenate()(
            [
                *(pool()(each) for each in _residual_sums(network)),
                features,
            ]
        )
        network = keras.Model(fields, features)
    network.trainable = False
    return network


def map_extractor(extractor: keras.Model) -> keras.Model:
    """Return the model of fields to the maps whose means the extractor of all blocks returns.

    Returns:
        A model from (batch, height, width, 3) to a list of (batch, height, width, filters), in the
        order of the features.
    """
    last = extractor.get_layer(backbones.FEATURES_LAYER).input
    return keras.Model(extractor.input, [*_residual_sums(extractor), last])


def _residual_sums(network):
    return [layer.output for layer in network.layers if isinstance(layer, keras.layers.Add)]
