"""Names of an encoder's tensors: those of other libraries, brought to timm's.

Files name their tensors as timm (Wightman 2019), as DINOv2 (Oquab et al. 2024, arXiv:2304.07193) or
as Hugging Face's transformers.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pcam_tf.errors import InputError

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
    # DINOv2 trains blocks in chunks: chunk, then number.
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
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


def timm_names(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return an encoder's tensors under timm's names, float32.

    Args:
        tensors: name in the file -> array; those of other networks in it are left out.
        path: of the file, for messages.

    Raises:
        InputError: there is no vision transformer among them.
    """
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
    return joined(renamed)


def joined(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors in which query, key and value are joined, and gate and values, as in timm."""
    for whole_name, parts in (
        ("attn.qkv", ("attn.query", "attn.key", "attn.value")),
        ("mlp.fc1", ("mlp.fc1_g", "mlp.fc1_x")),
    ):
        for first in [name for name in tensors if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            if all(name in tensors for name in names):
                whole = np.concatenate([tensors.pop(name) for name in names])
                tensors[first.replace(parts[0], whole_name)] = whole
    return tensors


def of_tokens(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors that make tokens: without heads, poolers and what masks need."""
    return {name: each for name, each in tensors.items() if not _NOT_OF_TOKENS.search(name)}
