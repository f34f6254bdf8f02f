import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import torch_files
from PIL import Image
from scipy.special import erf, softmax
from tiny_encoder import GRID, HEADS, HIDDEN, PATCH, WIDTH, tensors_of

from pcam_tf.errors import InputError
from pcam_tf.models import backbones, encoders, weights

SIDE = PATCH * GRID
ENCODERS = Path(os.environ.get("PCAM_TF_ENCODERS", "no such folder"))


def reference(tensors, pictures, positioned, epsilon=1e-6):
    """Return the tokens by numpy in float64, written after the paper and timm's documentation."""
    t = {name: tensor.astype("f8") for name, tensor in tensors.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    count, grid = len(pictures), pictures.shape[1] // PATCH
    cut = pictures.reshape(count, grid, PATCH, grid, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
    kernel = t["patch_embed.proj.weight"].reshape(WIDTH, -1)
    x = cut.reshape(count, grid**2, -1) @ kernel.T + t["patch_embed.proj.bias"]
    before = [t[name] for name in ("cls_token", "dist_token", "reg_token") if name in t]
    before = np.concatenate(before, 1) if before else np.zeros((1, 0, WIDTH))
    positions = t["pos_embed"][0]
    if grid != GRID:
        channels = positions[positioned:].reshape(GRID, GRID, WIDTH).transpose(2, 0, 1)
        resized = [
            Image.fromarray(c.astype("f4")).resize((grid, grid), Image.Resampling.BICUBIC)
            for c in channels
        ]
        patches = np.stack([np.asarray(each) for each in resized], -1).reshape(grid**2, WIDTH)
    else:
        patches = positions[positioned:]
    before = before + np.pad(positions[:positioned], ((0, before.shape[1] - positioned), (0, 0)))
    x = np.concatenate([np.repeat(before, count, 0), x + patches], 1)
    depth = sum(name.endswith("norm1.bias") for name in t)
    for block in [f"blocks.{index}" for index in range(depth)]:
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        query, key, value = (
            part.reshape(count, -1, HEADS, WIDTH // HEADS).swapaxes(1, 2)
            for part in np.split(qkv, 3, -1)
        )
        weight = softmax(query @ key.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS), axis=-1)
        mixed = (weight @ value).swapaxes(1, 2).reshape(count, -1, WIDTH)
        x = x + t.get(f"{block}.ls1.gamma", 1) * linear(mixed, f"{block}.attn.proj")
        inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        if inner.shape[-1] == 2 * HIDDEN:
            gate, values = np.split(inner, 2, -1)
            inner = gate / (1 + np.exp(-gate)) * values
        else:
            inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = x + t.get(f"{block}.ls2.gamma", 1) * linear(inner, f"{block}.mlp.fc2")
    return norm(x, "norm") if "norm.weight" in t else x


def hugging_face(tensors):
    """Return the tensors under Hugging Face's names of ViT."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in (
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.", "encoder.layer."),
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            (".attn.proj.", ".attention.output.dense."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ):
            name = name.replace(old, new)
        name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            for part, each in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = each
        else:
            renamed[name] = tensor
    renamed["pooler.dense.weight"] = np.zeros((WIDTH, WIDTH), "f4")
    return renamed


def hugging_face_dinov2(tensors):
    """Return the tensors under Hugging Face's names of DINOv2."""
    renamed = {}
    for name, tensor in hugging_face(tensors).items():
        for old, new in (
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("intermediate.dense", "mlp.weights_in"),
            (".attention.output.dense", ".KEPT"),
            (".output.dense", ".mlp.weights_out"),
            (".KEPT", ".attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("reg_token", "embeddings.register_tokens"),
        ):
            name = name.replace(old, new)
        renamed[f"dinov2.{name}"] = tensor
    return renamed


def dinov2(tensors):
    """Return the tensors under the names of DINOv2's own repository."""
    names = {"reg_token": "register_tokens", "mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed | {"mask_token": np.zeros((1, WIDTH), "f4")}


def teacher(tensors):
    """Return a checkpoint of self-distillation."""
    student = {f"module.{name}": np.zeros_like(tensor) for name, tensor in tensors.items()}
    network = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    heads = {"head.mlp.0.weight": np.zeros((4, 4), "f4")}
    return {"student": student, "teacher": network | heads, "epoch": 3}


def chunked(tensors):
    """Return the tensors of a DINOv2 training, whose blocks lie in chunks of one."""
    names = {f"blocks.{index}.": f"blocks.{index}.{index}." for index in (0, 1)}
    renamed = {}
    for name, tensor in dinov2(tensors).items():
        for old, new in names.items():
            name = name.replace(old, new, 1) if name.startswith(old) else name
        renamed[f"teacher.backbone.{name}"] = tensor
    return renamed


def swiglu_apart(tensors):
    """Return the tensors with gate and values in two layers, as timm's SwiGLU has them."""
    renamed = {}
    for name, tensor in tensors.items():
        if ".mlp.fc1." in name:
            for part, each in zip("gx", np.split(tensor, 2), strict=True):
                renamed[name.replace("fc1", f"fc1_{part}")] = each
        else:
            renamed[name] = tensor
    return renamed


REGISTERS = ("cls_token", "reg_token")
PICTURES = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype("f4")


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        ({}, dict),
        ({}, hugging_face),
        ({}, teacher),
        ({"bias": False, "norm": False}, dict),
        ({"prefix": (), "positioned": 0}, dict),
        ({"prefix": ("cls_token", "dist_token"), "positioned": 2}, dict),
        ({"prefix": REGISTERS, "positioned": 0, "scale": 0.1, "gated": True}, dict),
        ({"prefix": REGISTERS, "positioned": 3, "scale": 0.1}, dict),
        ({"prefix": REGISTERS, "positioned": 1, "scale": 1.0, "gated": True}, dinov2),
        ({"prefix": REGISTERS, "scale": 1.0, "gated": True}, hugging_face_dinov2),
        ({"gated": True}, swiglu_apart),
        ({"scale": 1.0}, chunked),
    ],
)
def test_every_kind_of_encoder_makes_the_tokens_of_the_reference(tmp_path, options, naming):
    tensors = tensors_of(**options)
    positioned = options.get("positioned", 1)
    tree = torch_files.arrays(naming(tensors))
    path = torch_files.write_zipped(tmp_path / "encoder.pth", tree)
    model = weights.load_encoder(path, side=SIDE, heads=HEADS)
    expected = reference(tensors, PICTURES, positioned)
    np.testing.assert_allclose(model(PICTURES), expected, atol=2e-5)


@pytest.mark.parametrize("side", [8, 20])
@pytest.mark.parametrize(("prefix", "positioned"), [(("cls_token",), 1), (REGISTERS, 0)])
def test_position_embeddings_are_resized_to_another_side(tmp_path, side, prefix, positioned):
    tensors = tensors_of(prefix=prefix, positioned=positioned)
    pictures = np.random.default_rng(2).normal(size=(1, side, side, 3)).astype("f4")
    path = torch_files.write_legacy(tmp_path / "encoder.pth", torch_files.arrays(tensors))
    model = weights.load_encoder(path, side=side, heads=HEADS)
    expected = reference(tensors, pictures, positioned)
    np.testing.assert_allclose(model(pictures), expected, atol=2e-5)


def test_a_configuration_gives_heads_and_epsilon(tmp_path):
    tensors = tensors_of()
    path = torch_files.write_zipped(tmp_path / "pytorch_model.bin", torch_files.arrays(tensors))
    config = {"model_args": {"num_heads": HEADS}, "layer_norm_eps": 0.1, "architecture": "vit"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = weights.load_encoder(path, side=SIDE)(PICTURES)
    expected = reference(tensors, PICTURES, 1, epsilon=0.1)
    np.testing.assert_allclose(tokens, expected, atol=2e-5)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        weights.load_encoder(path, side=SIDE)


def test_an_encoder_is_saved_and_loaded(tmp_path):
    tree = torch_files.arrays(tensors_of(prefix=REGISTERS, gated=True))
    model = weights.load_encoder(
        torch_files.write_zipped(tmp_path / "x.pth", tree), side=SIDE, heads=HEADS
    )
    model.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(PICTURES), model(PICTURES))


@pytest.mark.parametrize(("prefix", "positioned"), [(REGISTERS, 3), ((), 0)])
@pytest.mark.parametrize("side", [SIDE, SIDE - 1])
def test_a_classifier_sees_the_class_token_or_the_mean_of_tokens(
    tmp_path, prefix, positioned, side
):
    tree = torch_files.arrays(tensors_of(prefix=prefix, positioned=positioned))
    path = torch_files.write_zipped(tmp_path / "x.pth", tree)
    mean, deviation = [0.7, 0.5, 0.6], [0.2, 0.3, 0.1]
    config = {"num_heads": HEADS, "pretrained_cfg": {"mean": mean, "std": deviation}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    patches = np.random.default_rng(3).uniform(0, 255, (2, side, side, 3)).astype("f4")
    inputs = keras.Input((side, side, 3))
    features = backbones.connect("ViT", inputs, weights=path).pooled
    resized = keras.layers.Resizing(SIDE, SIDE)(patches)
    tokens = weights.load_encoder(path, side=SIDE)((resized / 255 - mean) / deviation)
    expected = tokens[:, 0] if prefix else np.mean(tokens, axis=1)
    np.testing.assert_allclose(keras.Model(inputs, features)(patches), expected, atol=1e-4)


def test_statistics_come_from_the_files_beside_the_encoder(tmp_path):
    path = torch_files.write_zipped(tmp_path / "x.pth", torch_files.arrays(tensors_of()))
    assert encoders.read_encoder(path).statistics == encoders.IMAGENET_STATISTICS
    content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")
    assert encoders.read_encoder(path).statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("path", [None, "imagenet"])
def test_an_encoder_without_a_file_is_refused(path):
    with pytest.raises(InputError, match="give that file"):
        backbones.connect("ViT", keras.Input((SIDE, SIDE, 3)), weights=path)


def changed(change):
    """Return the tensors after a change to their dictionary."""
    tensors = tensors_of(scale=0.1)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("blocks.1.norm2.bias"), "1 missing, the first blocks.1.norm2.bias"),
        (lambda t: t.pop("blocks.0.ls2.gamma"), "1 missing, the first blocks.0.ls2.gamma"),
        (lambda t: t.pop("blocks.0.attn.qkv.bias"), "1 missing, the first blocks.0.attn.qkv.bias"),
        (lambda t: t.pop("patch_embed.proj.bias"), "1 missing, the first patch_embed.proj.bias"),
        (lambda t: t.pop("norm.weight"), "1 missing, the first norm.weight"),
        (
            lambda t: [t.pop(f"norm.{part}") for part in ("weight", "bias")],
            "2 missing, the first norm.weight",
        ),
        (lambda t: t.pop("cls_token"), "10 position embeddings are of no square of patches"),
        (lambda t: t.pop("pos_embed"), "1 missing, the first pos_embed"),
        (lambda t: t.update(other=np.zeros(2)), "1 unexpected, the first other"),
        (lambda t: t.update({"blocks.0.attn.q_norm.weight": np.zeros(8)}), "1 unexpected"),
        (
            lambda t: t.update({"blocks.0.mlp.fc2.bias": np.zeros(3)}),
            r"1 of a wrong shape, the first blocks.0.mlp.fc2.bias is \(3,\), not \(24,\)",
        ),
        (lambda t: t.update(cls_token=np.zeros((1, 1, 8))), "the first cls_token is"),
        (lambda t: t.update(pos_embed=np.zeros((1, 12, WIDTH))), "12 position embeddings"),
        (lambda t: t.pop("patch_embed.proj.weight"), "holds no vision transformer"),
        (
            lambda t: t.update({"patch_embed.proj.weight": np.zeros((WIDTH, 1, 4, 4))}),
            "no square patch of three channels",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, change, says):
    tree = torch_files.arrays(changed(change))
    path = torch_files.write_zipped(tmp_path / "x.pth", tree)
    with pytest.raises(InputError, match=says) as refused:
        weights.load_encoder(path, side=SIDE, heads=HEADS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"side": 30, "heads": 3}, "no multiple of the encoder's patch side of 4 px: choose 32"),
        ({"side": 12, "heads": 5}, "cannot be split among 5 heads"),
        ({"side": 12}, "cannot be split among 0 heads"),
    ],
)
def test_sides_and_heads_that_do_not_fit_are_refused(tmp_path, options, says):
    path = torch_files.write_zipped(tmp_path / "x.pth", torch_files.arrays(tensors_of()))
    with pytest.raises(InputError, match=says):
        weights.load_encoder(path, **options)


@pytest.mark.skipif(
    not ENCODERS.is_dir(), reason="needs PCAM_TF_ENCODERS: files with timm's outputs"
)
@pytest.mark.parametrize("name", ["vit_plain.pth", "vit_layerscale.safetensors"])
@pytest.mark.parametrize("side", [224, 96])
def test_timms_own_tokens(name, side):
    path = ENCODERS / name
    stored = np.load(path.with_suffix(".npz"))
    tokens = weights.load_encoder(path, side=side, heads=3)(stored[f"input_{side}"].astype("f4"))
    np.testing.assert_allclose(tokens, stored[f"tokens_{side}"], atol=1e-4)
