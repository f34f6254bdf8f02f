"""Encoders that others have trained: vision transformers from a file of weights, in Keras.

Files name their tensors as timm (Wightman 2019), as DINOv2 (Oquab et al. 2024, arXiv:2304.07193) or
as Hugging Face's transformers. All are brought to timm's names first.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pcam_tf.errors import InputError, first_line
from pcam_tf.models import tensor_files, transformers

# What the first layer is called decides how the file names its tensors, and their prefix.
_FIRST_LAYERS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
# Other name -> timm's name, tried in this order.
_RENAMED = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(embeddings\.)?register_tokens$", "reg_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(w12|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(w3|weights_out)\.", ".mlp.fc2."),
)
# Parts that make no tokens: heads, poolers and what training with masks needs.
_NOT_OF_TOKENS = re.compile(
    r"^(head|head_dist|fc_norm|pooler|classifier|mask_token|decoder)(\.|$)|^attn_pool\."
)
# Mean and standard deviation of ImageNet's channels, of RGB 0..1, as torchvision has them.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# ViT-H has 16 heads at this width (Dosovitskiy et al. 2021), Virchow among them; others have one
# head for each 64 numbers of a token.
_HEADS = {1280: 16}


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


def load_encoder(path: str | Path, *, side: int = 224, heads: int | None = None) -> keras.Model:
    """Build a vision transformer in Keras and load its weights from a file.

    The file is PyTorch's (`torch.save`, either form) or safetensors', in the names of timm, DINOv2
    or Hugging Face. Depth, width, patch side, class token, registers, LayerScale and the kind of
    MLP (GELU or SwiGLU) follow from the tensors. LayerScale is multiplied into the layer before it.
    Position embeddings are resized to another side as timm does it: bicubic, antialiased.

    Args:
        path: the file. A `config.json` beside it, as Hugging Face has them, may name the heads, the
            epsilon of the layer normalisations (else 1e-6) and the trained side (else 224).
        side: of the pictures in pixels; a multiple of the encoder's patch side.
        heads: of attention, which the tensors do not tell. Default: those of `config.json`, else
            one for each 64 numbers of a token (16 at a width of 1280, as ViT-H has).

    Returns:
        A model from pictures (n, side, side, 3), already normalised by the encoder's own mean and
        standard deviation, to float32 tokens (n, tokens, width): class token and registers first,
        then the patches row by row.

    Raises:
        InputError: the file cannot be read; tensors are missing, unexpected or of a wrong shape;
            or `side` or `heads` does not fit. Nothing is loaded by halves.
    """
    encoder = read_encoder(path)
    return connect(encoder, keras.Input((side, side, 3), name="pictures"), heads=heads)


def read_encoder(path: str | Path) -> Encoder:
    """Read and check an encoder's file, see `load_encoder`."""
    path = Path(path)
    tensors = _timm_names(tensor_files.read_tensors(path), path)
    shape = _network_shape(tensors, path)
    tensors = {name: each for name, each in tensors.items() if not _NOT_OF_TOKENS.search(name)}
    _check_tensors(tensors, shape, path)
    return Encoder(path, tensors, shape, _statistics(path), _config(path))


def connect(
    encoder: Encoder, pictures: keras.KerasTensor, *, heads: int | None = None
) -> keras.Model:
    """Apply the network of an encoder to normalised pictures (batch, side, side, 3).

    Returns:
        The model from whatever `pictures` is made from to tokens, see `load_encoder`.
    """
    path, shape, config = encoder.path, encoder.shape, encoder.config
    side = pictures.shape[1]
    heads = heads or config.get("heads") or _HEADS.get(shape.width) or shape.width // 64
    if heads < 1 or shape.width % heads:
        raise InputError(
            f"{path}: a width of {shape.width} cannot be split among {heads} heads: give the "
            "number of heads of the encoder."
        )
    if side < shape.patch or side % shape.patch:
        raise InputError(
            f"{path}: a side of {side} px is no multiple of the encoder's patch side of "
            f"{shape.patch} px: choose {max(1, round(side / shape.patch)) * shape.patch}."
        )
    trained_grid = config.get("side", 224) // shape.patch
    prefix, positions = _split_positions(encoder, trained_grid)
    model = transformers.vision_transformer(
        pictures,
        patch=shape.patch,
        width=shape.width,
        depth=shape.depth,
        heads=heads,
        hidden=shape.hidden,
        gated=shape.gated,
        prefix=prefix.shape[1],
        final_norm=shape.final_norm,
        epsilon=config.get("epsilon", 1e-6),
    )
    embedding = [_resize(positions, side // shape.patch), *([prefix] if shape.prefix else [])]
    _set_weights(model, encoder, heads, embedding)
    return model


def _timm_names(tensors, path):
    """Return the encoder's tensors under timm's names, float32."""
    ends = [
        (name, first)
        for name in tensors
        for first in _FIRST_LAYERS
        if name == first or name.endswith(f".{first}")
    ]
    if not ends:
        raise InputError(
            f"{path} holds no vision transformer: none of its {len(tensors)} tensors is named "
            f"{_FIRST_LAYERS[0]} or {_FIRST_LAYERS[1]}."
        )
    # A checkpoint of self-distillation holds two networks, of which the teacher is the encoder.
    name, first = next((end for end in ends if "teacher" in end[0]), ends[0])
    prefix = name.removesuffix(first)
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = np.asarray(tensor, np.float32)
    return _join(renamed)


def _join(tensors):
    """Join the tensors that others keep apart: query, key and value; gate and values."""
    for joined, parts in (
        ("attn.qkv", ("attn.query", "attn.key", "attn.value")),
        ("mlp.fc1", ("mlp.fc1_g", "mlp.fc1_x")),
    ):
        for first in [name for name in tensors if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            if all(name in tensors for name in names):
                whole = np.concatenate([tensors.pop(name) for name in names])
                tensors[first.replace(parts[0], joined)] = whole
    return tensors


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
    """Return the name -> shape of every tensor; None where `_split_positions` checks the shape."""
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


def _split_positions(encoder, trained_grid):
    """Return the tokens before the patches (1, p, width) and the positions (1, grid, grid, width).

    The file's position embeddings are of all tokens, of the patches only, or (DINOv2 with
    registers) of the class token and the patches. Those of tokens are added to the tokens.
    """
    path, tensors, shape, *_ = encoder
    width, positions = shape.width, tensors["pos_embed"]
    tokens = [tensors[name] for name in shape.prefix]
    for name, each in (*zip(shape.prefix, tokens, strict=True), ("pos_embed", positions)):
        if each.ndim != 3 or each.shape[0] != 1 or each.shape[2] != width:
            raise InputError(
                f"{path} is not a whole vision transformer, in timm's names: 1 of a wrong shape, "
                f"the first {name} is {each.shape}, not (1, tokens, {width})."
            )
    before = np.concatenate(tokens, axis=1) if tokens else np.zeros((1, 0, width), np.float32)
    positioned = [0, before.shape[1], *([1] if "cls_token" in shape.prefix else [])]
    counts = {count: positions.shape[1] - count for count in positioned}
    squares = [count for count, rest in counts.items() if rest > 0 and _root(rest) ** 2 == rest]
    if not squares:
        raise InputError(
            f"{path}: its {positions.shape[1]} position embeddings are of no square of patches."
        )
    count = next((each for each in squares if _root(counts[each]) == trained_grid), squares[0])
    before = before.copy()
    before[:, :count] += positions[:, :count]
    grid = _root(counts[count])
    return before, positions[:, count:].reshape(1, grid, grid, width)


def _root(number):
    return round(number**0.5)


def _resize(positions, grid):
    """Return position embeddings (1, grid², width) of another grid."""
    if positions.shape[1] != grid:
        positions = keras.ops.convert_to_numpy(
            keras.ops.image.resize(
                positions,
                (grid, grid),
                interpolation="bicubic",
                antialias=True,
                data_format="channels_last",
            )
        )
    return positions.reshape(1, grid * grid, -1)


def _set_weights(model, encoder, heads, embedding):
    """Put the tensors into the layers. A bias that the file does without is zero."""
    _, tensors, shape, *_ = encoder

    def bias(name):
        return tensors.get(f"{name}.bias", np.zeros(len(tensors[f"{name}.weight"]), np.float32))

    def norm(layer, name):
        model.get_layer(layer).set_weights([tensors[f"{name}.weight"], tensors[f"{name}.bias"]])

    width = shape.width
    kernel = tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    model.get_layer("patches").set_weights([kernel, bias("patch_embed.proj")])
    model.get_layer("embedding").set_weights(embedding)
    for index in range(shape.depth):
        block, layer = f"blocks.{index}", f"block{index}"
        norm(f"{layer}_norm1", f"{block}.norm1")
        norm(f"{layer}_norm2", f"{block}.norm2")
        scales = [tensors.get(f"{block}.ls{part}.gamma", np.float32(1)) for part in (1, 2)]
        by_head = (width, heads, width // heads)
        attention = []
        for weight, added in zip(
            np.split(tensors[f"{block}.attn.qkv.weight"], 3),
            np.split(bias(f"{block}.attn.qkv"), 3),
            strict=True,
        ):
            attention += [weight.T.reshape(by_head), added.reshape(by_head[1:])]
        projection = (tensors[f"{block}.attn.proj.weight"].T * scales[0]).reshape(
            *by_head[1:], width
        )
        attention += [projection, bias(f"{block}.attn.proj") * scales[0]]
        model.get_layer(f"{layer}_attention").set_weights(attention)
        weights = tensors[f"{block}.mlp.fc1.weight"].T, bias(f"{block}.mlp.fc1")
        if shape.gated:
            parts = [np.split(part, 2, axis=-1) for part in weights]
            model.get_layer(f"{layer}_gate").set_weights([part[0] for part in parts])
            weights = [part[1] for part in parts]
        model.get_layer(f"{layer}_hidden").set_weights(list(weights))
        out = tensors[f"{block}.mlp.fc2.weight"].T * scales[1]
        model.get_layer(f"{layer}_out").set_weights([out, bias(f"{block}.mlp.fc2") * scales[1]])
    if shape.final_norm:
        norm("norm", "norm")
