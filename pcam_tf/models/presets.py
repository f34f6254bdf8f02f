"""Weights that keras-hub downloads: its vision transformers as encoders of ours, and its Swin.

The networks of ViT, DeiT and DINOv2 are built by `transformers`, so that keras-hub is needed for
their weights alone, and not where a saved model is loaded.
"""

import re
from pathlib import Path

import keras
import numpy as np

from pcam_tf.errors import InputError, missing_extra
from pcam_tf.models import encoder_names, encoders

# Of the four stages of Swin tiny; a head has 32 numbers of a token.
SWIN_HEADS = [3, 6, 12, 24]
# Path of a variable in keras-hub -> timm's name, tried in this order.
_RENAMED = (
    (r"^(\w+_)?embeddings?/", ""),
    (r"^(cls|class)_token$", "cls_token"),
    (r"^distillation_token$", "dist_token"),
    (r"^position_embeddings?(/embeddings)?$", "pos_embed"),
    (r"^(patch_embedding|patch_embeddings/projection)/", "patch_embed.proj."),
    (r"^\w*encoder/(transformer_block|layers)_(\d+)/", r"blocks.\2."),
    (r"^(\w*encoder/ln|layernorm)/", "norm."),
    (r"\.ln_([12])/", r".norm\1."),
    (r"\.(mha|attention/attention)/(query|key|value)/", r".attn.\2."),
    (r"\.(mha|attention/attention)/attention_output/", ".attn.proj."),
    (r"\.layer_scale([12])/lambda1$", r".ls\1.gamma"),
    (r"\.mlp/(dense|dense_1|fc1)/", ".mlp.fc1."),
    (r"\.(output_layer/output|mlp/dense_2|mlp/fc2)/", ".mlp.fc2."),
    ("/", "."),
    (r"\.(kernel|gamma)$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"(\.ls[12])\.weight$", r"\1.gamma"),
)


def hub():
    """Return the module keras_hub, which is optional.

    Raises:
        InputError: it is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise missing_extra("keras-hub", "transformers") from error
    return keras_hub


def encoder(preset: str, statistics: tuple) -> encoders.Encoder:
    """Return a preset of keras-hub's ViT, DeiT or DINOv2, downloaded where it is not yet here.

    Args:
        preset: its name, or a folder that `save_to_preset` wrote.
        statistics: mean and standard deviation that pictures are normalised by.

    Raises:
        InputError: keras-hub is not installed, or the preset is of another kind.
    """
    return of_backbone(hub().models.Backbone.from_preset(preset), Path(preset), statistics)


def of_backbone(backbone: keras.Model, path: Path, statistics: tuple) -> encoders.Encoder:
    """Return keras-hub's network as an encoder.

    Args:
        backbone: a `ViTBackbone`, `DeiTBackbone` or `DINOV2Backbone`.
        path: what to call it in messages.
        statistics: see `encoder`.
    """
    config = backbone.get_config()
    tensors = {}
    for variable in backbone.weights:
        name = variable.path
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        tensors[name] = _as_in_torch(name, np.asarray(variable, "float32"))
    # DINOv2's own, for the side that it was built for; those it was trained with are resized.
    tensors.pop("interpolated_position_embeddings", None)
    if not any(name.startswith("blocks.0.") for name in tensors):
        # ViT and DeiT count their blocks from 1.
        tensors = {
            re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{int(found[1]) - 1}", name): each
            for name, each in tensors.items()
        }
    side = config.get("position_embedding_shape") or config["image_shape"]
    known = {
        "heads": config["num_heads"],
        "epsilon": config.get("layer_norm_epsilon", 1e-6),
        "side": side[0],
    }
    return encoders.checked(encoder_names.joined(tensors), path, statistics, known)


def _as_in_torch(name, tensor):
    """Return a variable of Keras in the layout that PyTorch has for it."""
    if name == "pos_embed":
        return tensor.reshape(1, *tensor.shape[-2:])
    if tensor.ndim == 4:
        return tensor.transpose(3, 2, 0, 1)
    if ".attn.proj." in name and tensor.ndim == 3:
        return tensor.reshape(-1, tensor.shape[-1]).T
    if ".attn." in name:
        # Heads are an axis of their own.
        return tensor.reshape(tensor.shape[0], -1).T if tensor.ndim == 3 else tensor.ravel()
    return tensor.T if name.endswith(".weight") else tensor


def swin_tiny(
    input_tensor: keras.KerasTensor,
    weights: str | None = None,
    stochastic_depth: float = 0.0,
    preset: str = "swin_tiny_patch4_window7_224",
) -> keras.Model:
    """Return keras-hub's Swin transformer (Z. Liu et al., ICCV 2021), as one layer of a model.

    Args:
        input_tensor: Keras tensor (batch, side, side, 3), of mean 0 and variance 1; the side is a
            multiple of 224, into which its windows of 7×7 tokens fit at each of its stages.
        weights: "preset", or None for random ones.
        stochastic_depth: drop path of the last block.
        preset: its name.

    Raises:
        InputError: keras-hub is missing, or older than its Swin.
    """
    kind = getattr(hub().models, "SwinTransformerBackbone", None)
    if kind is None:
        raise InputError(
            f"keras-hub {hub().__version__} has no Swin transformer: install 0.30 or later, by "
            'python -m pip install "keras-hub>=0.30".'
        )
    shape = tuple(input_tensor.shape[1:])
    if weights:
        network = kind.from_preset(preset, image_shape=shape, drop_path=stochastic_depth)
    else:
        network = kind(
            image_shape=shape,
            embed_dim=32 * SWIN_HEADS[0],
            depths=[2, 2, 6, 2],
            num_heads=SWIN_HEADS,
            window_size=7,
            drop_path=stochastic_depth,
        )
    (source,) = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(source, network(input_tensor), name="swin_tiny")
