"""A vision transformer small enough for tests, as tensors in timm's names."""

import numpy as np

from pcam_tf.models import transformers

PATCH, WIDTH, HEADS, HIDDEN, GRID = 4, 24, 3, 40, 3


def tensors_of(
    depth=2, prefix=("cls_token",), positioned=1, scale=None, gated=False, bias=True, norm=True
):
    """Return random tensors in timm's names, strong enough for every part to matter."""
    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.normal(size=shape).astype("f4") * 0.3

    counts = {"cls_token": 1, "dist_token": 1, "reg_token": 2}
    found = {name: draw(1, counts[name], WIDTH) for name in prefix}
    found["pos_embed"] = draw(1, GRID**2 + positioned, WIDTH)
    found["patch_embed.proj.weight"] = draw(WIDTH, 3, PATCH, PATCH)
    found["patch_embed.proj.bias"] = draw(WIDTH)
    for name in [f"blocks.{index}." for index in range(depth)]:
        for norm_name in ("norm1", "norm2"):
            found[f"{name}{norm_name}.weight"] = 1 + draw(WIDTH)
            found[f"{name}{norm_name}.bias"] = draw(WIDTH)
        sizes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        sizes |= {"mlp.fc1": ((2 if gated else 1) * HIDDEN, WIDTH), "mlp.fc2": (WIDTH, HIDDEN)}
        for layer, size in sizes.items():
            found[f"{name}{layer}.weight"] = draw(*size)
            if bias or layer != "attn.qkv":
                found[f"{name}{layer}.bias"] = draw(size[0])
        if scale:
            found[f"{name}ls1.gamma"] = scale * (1 + draw(WIDTH))
            found[f"{name}ls2.gamma"] = scale * (1 + draw(WIDTH))
    kind = "norm" if norm else "fc_norm"
    found |= {f"{kind}.weight": 1 + draw(WIDTH), f"{kind}.bias": draw(WIDTH)}
    return found


def network(input_tensor, stochastic_depth=0.0):
    """Return a network of random weights that is still smaller: its tokens are of 16 px."""
    return transformers.vision_transformer(
        input_tensor, patch=16, width=WIDTH, depth=1, heads=HEADS, hidden=WIDTH, prefix=2
    )
