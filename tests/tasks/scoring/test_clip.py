"""The timm path on a real pretrained ViT: OpenAI's CLIP ViT-B/16."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fabricate import ROOT
from PIL import Image
from safetensors.torch import load_file

from mdmf_core.images.crops import CropPlan
from tasks.scoring.loading import load_scorer

TOOL = ROOT.parent / "shared" / "tools" / "make_clip_backbone.py"
MODEL = "vit_base_patch16_clip_quickgelu_224.openai"


@pytest.fixture(scope="module")
def weights() -> Path:
    path = ROOT / ".cache" / "clip-vit-b16.safetensors"
    if not path.exists():
        if not TOOL.exists():
            pytest.skip("the script that unpacks CLIP ViT-B/16 is not beside this checkout")
        path.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, str(TOOL), str(path)], check=True, capture_output=True)
    return path


def test_patch_tokens_are_those_of_timms_own_forward(weights):
    scorer = load_scorer(f"timm:{MODEL}?weights={weights}", "cpu")
    photo = np.asarray(Image.open(next((ROOT / "samples" / "folder").glob("*.jpg"))).convert("RGB").resize((320, 300)))
    crops = CropPlan(224, 2).cut(photo)
    reference = timm.create_model(MODEL, pretrained=False).eval()
    reference.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=True)
    mean, std = (torch.tensor(reference.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = reference.forward_features((torch.from_numpy(crops).float() / 255 - mean) / std)[:, 1:]
    found = scorer.extract([crops]).vectors.unflatten(0, expected.shape[:2])
    assert found.shape == (2, 196, 768)
    assert (found - expected).abs().max() < 1e-5
