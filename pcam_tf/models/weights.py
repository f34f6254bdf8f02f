"""Encoders that others have trained: vision transformers from a file of weights, in Keras."""

from pathlib import Path

import keras
import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.models import transformers
from pcam_tf.models.encoders import Encoder, read_encoder

# ViT-H has 16 heads at this width (Dosovitskiy et al. 2021), Virchow among them; others have one
# head for each 64 numbers of a token.
_HEADS = {1280: 16}


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


def connect(
    encoder: Encoder,
    pictures: keras.KerasTensor,
    *,
    heads: int | None = None,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Apply the network of an encoder to normalised pictures (batch, side, side, 3).

    Args:
        encoder: see `encoders.read_encoder`.
        pictures: Keras tensor.
        heads: see `load_encoder`.
        stochastic_depth: how often training skips blocks, see `transformers`.

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
        stochastic_depth=stochastic_depth,
    )
    embedding = [_resize(positions, side // shape.patch), *([prefix] if shape.prefix else [])]
    _set_weights(model, encoder, heads, embedding)
    return model


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
