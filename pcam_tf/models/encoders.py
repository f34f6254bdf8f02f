"""Encoders that others have trained, as read from their files: tensors, shape, configuration."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcam_tf.errors import InputError, first_line
from pcam_tf.models import encoder_names, tensor_files

# Mean and standard deviation of ImageNet's channels, of RGB 0..1, as torchvision has them.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Shape(NamedTuple):
    """What the shapes of the tensors say of the network."""

    patch: int
    width: int
    depth: int
    hidden: int
    gated: bool
    prefix: tuple[str, ...]
    final_norm: bool


class Encoder(NamedTuple):
    """What a file of weights and the configuration beside it hold.

    Attributes:
        path: of the file.
        tensors: timm's name -> float32 array.
        shape: of the network.
        statistics: mean and standard deviation of each channel, of RGB 0..1, that pictures are
            normalised by.
        config: heads, epsilon and trained side, where `config.json` gives them.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    shape: Shape
    statistics: tuple
    config: dict


def read_encoder(path: str | Path) -> Encoder:
    """Read and check an encoder's file, see `weights.load_encoder`.

    Raises:
        InputError: the file cannot be read, or it is no whole vision transformer.
    """
    path = Path(path)
    tensors = encoder_names.timm_names(tensor_files.read_tensors(path), path)
    return checked(tensors, path, _statistics(path), _config(path))


def checked(tensors: dict[str, np.ndarray], path: Path, statistics: tuple, config: dict) -> Encoder:
    """Return an encoder of tensors under timm's names, see `Encoder`.

    Raises:
        InputError: tensors are missing, unexpected or of a wrong shape.
    """
    shape = _network_shape(tensors, path)
    tensors = encoder_names.of_tokens(tensors)
    _check_tensors(tensors, shape, path)
    return Encoder(path, tensors, shape, statistics, config)


def _json_beside(path, name):
    file = path.with_name(name)
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        return content
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({first_line(error)}).") from error


def _config(path):
    """Return what a config.json beside the file says: heads, epsilon, side, where it says them."""
    config = _json_beside(path, "config.json")
    arguments = {**config, **(config.get("model_args") or {})}
    found = {
        "heads": arguments.get("num_attention_heads", arguments.get("num_heads")),
        "epsilon": arguments.get("layer_norm_eps"),
        "side": arguments.get("img_size", arguments.get("image_size")),
    }
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _statistics(path):
    """Return the channels' mean and standard deviation in the files beside an encoder's.

    `pretrained_cfg` in config.json is timm's, preprocessor_config.json Hugging Face's.
    """
    timm = _json_beside(path, "config.json").get("pretrained_cfg") or {}
    hugging_face = _json_beside(path, "preprocessor_config.json")
    for found in (
        (timm.get("mean"), timm.get("std")),
        (hugging_face.get("image_mean"), hugging_face.get("image_std")),
    ):
        if all(isinstance(each, list) and len(each) == 3 for each in found):
            return tuple(tuple(each) for each in found)
    return IMAGENET_STATISTICS


def _network_shape(tensors, path):
    kernel = tensors["patch_embed.proj.weight"]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise InputError(
            f"{path}: patch_embed.proj.weight has the shape {kernel.shape}, which is no square "
            "patch of three channels."
        )
    blocks = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
    if not blocks:
        raise InputError(f"{path} holds no blocks of a vision transformer.")
    hidden = {
        part: next((t.shape for name, t in tensors.items() if name.endswith(end)), (0, 0))
        for part, end in (("in", ".mlp.fc1.weight"), ("out", ".mlp.fc2.weight"))
    }
    units = hidden["out"][-1] or hidden["in"][0]
    return Shape(
        patch=kernel.shape[2],
        width=kernel.shape[0],
        depth=1 + max(blocks),
        hidden=units,
        gated=hidden["in"][0] == 2 * units,
        prefix=tuple(name for name in ("cls_token", "dist_token", "reg_token") if name in tensors),
        # timm normalises pooled tokens instead where a head averages them.
        final_norm="fc_norm.weight" not in tensors or "norm.weight" in tensors,
    )


def _check_tensors(tensors, shape, path):
    """Refuse missing, unexpected and wrong-shaped tensors."""
    expected = _expected(tensors, shape)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    wrong = [
        f"{name} is {tensors[name].shape}, not {expected[name]}"
        for name in expected
        if name in tensors and expected[name] and tensors[name].shape != expected[name]
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of a wrong shape": wrong}
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {kind}, the first {names[0]}"
            for kind, names in problems.items()
            if names
        )
        raise InputError(f"{path} is not a whole vision transformer, in timm's names: {text}.")


def _expected(tensors, shape):
    """Return the name -> shape of every tensor; None where `weights` checks the shape."""
    width, inner = shape.width, shape.hidden * (2 if shape.gated else 1)
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, shape.hidden),
        "mlp.fc2.bias": (width,),
        "ls2.gamma": (width,),
    }
    # What no block has, the encoder does without.
    absent = set()
    for ends in (("attn.qkv.bias",), ("ls1.gamma", "ls2.gamma")):
        if not any(name.endswith(ends) for name in tensors):
            absent.update(ends)
    expected = {"pos_embed": None, **dict.fromkeys(shape.prefix)}
    expected["patch_embed.proj.weight"] = (width, 3, shape.patch, shape.patch)
    expected["patch_embed.proj.bias"] = (width,)
    for index in range(shape.depth):
        for end, size in block.items():
            if end not in absent:
                expected[f"blocks.{index}.{end}"] = size
    if shape.final_norm:
        expected |= {"norm.weight": (width,), "norm.bias": (width,)}
    return expected
