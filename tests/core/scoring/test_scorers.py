"""Scorers: identity, tokens against timm's own, tolerance over batches, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mdmf_core.banks.bank import bank_from_files
from mdmf_core.banks.calibration import CARD as CALIBRATION
from mdmf_core.banks.calibration import calibration_from_file, require_match
from mdmf_core.digests import tensors_digest
from mdmf_core.errors import ArtifactError
from mdmf_core.records import ImageShape
from mdmf_core.scoring.backbone_address import PRESETS, TimmAddress
from mdmf_core.scoring.scorer import Statistic
from mdmf_core.scoring.scorer_files import (
    CARD,
    SEEN,
    TENSORS,
    backbone_scorer,
    choose_device,
    scorer_files,
    scorer_from_files,
    with_signature,
)
from mdmf_core.signatures.pfs import PatchSignature

CPU = torch.device("cpu")
DEFAULT = Path(str(files("scorers") / "forensic"))


def crops_of(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def tokens(address: str, crops: np.ndarray) -> torch.Tensor:
    return backbone_scorer(address, CPU, None).extract([crops]).vectors.unflatten(0, (len(crops), -1))


def test_one_block_and_pooling_against_timms_own_forward(tiny_scorer):
    crops = crops_of(0, 2, 224)
    model = timm.create_model("test_vit", pretrained=False, img_size=224).eval()
    model.load_state_dict(load_file(TimmAddress.parse(tiny_scorer).weights))
    kept: list[torch.Tensor] = []
    model.blocks[3].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.inference_mode():
        last = model.forward_features((torch.from_numpy(crops).float() / 255 - 0.5) / 0.5)[:, 1:]
        third = model.norm(kept[0])[:, 1:]
    assert (tokens(tiny_scorer, crops) - last).abs().max() < 1e-5
    assert (tokens(f"{tiny_scorer}&blocks=3", crops) - third).abs().max() < 1e-5
    pooled = last.unflatten(1, (7, 2, 7, 2)).mean((2, 4)).flatten(1, 2)
    assert (tokens(f"{tiny_scorer}&pool=32", crops) - pooled).abs().max() < 1e-5
    assert tokens(f"{tiny_scorer}&blocks=3,-1", crops).shape == (2, 196, 128)


@pytest.mark.parametrize(("pool", "side"), [(16, 14), (32, 7), (56, 4)])
def test_the_papers_patch_sizes_average_the_tokens_under_them(tiny_scorer, pool, side):
    crops = crops_of(1, 2, 224)
    whole = tokens(tiny_scorer, crops).transpose(1, 2).unflatten(2, (14, 14))
    expected = torch.nn.functional.adaptive_avg_pool2d(whole, side).flatten(2).transpose(1, 2)
    assert (tokens(f"{tiny_scorer}&pool={pool}", crops) - expected).abs().max() < 1e-5


def test_register_tokens_are_dropped(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, img_size=56).eval()
    save_file(model.state_dict(), tmp_path / "reg4.safetensors")
    crops = crops_of(2, 1, 56)
    found = tokens(f"timm:vit_small_patch14_reg4_dinov2?weights={tmp_path}/reg4.safetensors&size=56", crops)
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model.forward_features((torch.from_numpy(crops).float() / 255 - mean) / std)[:, 5:]  # class, 4 registers
    assert found.shape == (1, 16, 384)
    assert (found - expected).abs().max() < 1e-5


def test_blocks_after_the_last_one_asked_for_are_not_run(tiny_scorer):
    backbone = backbone_scorer(f"{tiny_scorer}&blocks=1", CPU, None).backbone
    ran = []
    for number, block in enumerate(backbone.model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.inference_mode():
        backbone(torch.from_numpy(crops_of(0, 1, 224)))
    assert ran == [0, 1]


def test_description_is_the_tokens_and_the_class_token_of_the_last_block_asked_for(tiny_scorer):
    crops = torch.from_numpy(crops_of(3, 2, 224))
    backbone = backbone_scorer(f"{tiny_scorer}&blocks=1,4&pool=32", CPU, None).backbone
    with torch.inference_mode():
        found, whole = backbone.describe(crops)
        assert (found - backbone(crops)).abs().max() < 1e-5
        x = backbone.model.norm_pre(backbone.model._pos_embed(backbone.model.patch_embed((crops.float() / 255 - 0.5) / 0.5)))
        for block in backbone.model.blocks[:5]:
            x = block(x)
    assert (whole - backbone.model.norm(x)[:, 0]).abs().max() < 1e-5


def test_the_papers_preset_is_dinov2_large_with_49_patches():
    with pytest.raises(ValueError, match=r"vit_large_patch14_dinov2.lvd142m needs its weights pinned"):
        backbone_scorer("mdmf-dinov2-l14", CPU, None)
    parsed = TimmAddress.parse(PRESETS["mdmf-dinov2-l14"])
    assert parsed.config.size // parsed.config.pool == 7


def test_a_signature_is_imported_from_a_plain_file(tiny_scorer, tmp_path):
    torch.manual_seed(0)
    signature = PatchSignature(64, 16, 4)
    save_file(signature.state_dict(), tmp_path / "pfs.safetensors")
    read = PatchSignature.from_tensors(load_file(tmp_path / "pfs.safetensors"))
    scorer = with_signature(backbone_scorer(tiny_scorer, CPU, None), "imported", read, Statistic({"cross": -1.0}), 1.0)
    written = scorer_files(scorer, tiny_scorer, {})
    again = scorer_from_files(written.__getitem__, CPU, None)
    assert again.scorer_id == scorer.scorer_id
    crops = crops_of(0, 2, 224)
    assert torch.equal(again.extract([crops]).vectors, scorer.extract([crops]).vectors)
    assert scorer.extract([crops]).vectors.shape == (2 * 196, 4)


def test_identity_follows_everything_that_changes_a_score(tiny_scorer):
    addresses = [tiny_scorer, *(f"{tiny_scorer}&{option}" for option in ("blocks=3", "pool=32", "crops=4", "encode=90"))]
    assert len({backbone_scorer(address, CPU, None).scorer_id for address in addresses}) == 5
    assert backbone_scorer(tiny_scorer, CPU, None).scorer_id == backbone_scorer(tiny_scorer, CPU, None).scorer_id


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("timm:vit_tiny_patch16_224", "add either"),
        ("timm:vit_tiny_patch16_224?weights=a.pth", "safetensors"),
        ("timm:no_such_model?revision=abc", "timm has no model"),
        ("timm:vit_tiny_patch16_224?wieghts=a", "unknown wieghts"),
        ("timm:vit_tiny_patch16_224?size=big", "invalid literal"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(address, message):
    with pytest.raises(ValueError, match=message):
        backbone_scorer(address, CPU, None)


def test_blocks_and_pools_that_do_not_fit_are_refused(tiny_scorer):
    with pytest.raises(ValueError, match="run from -6 to 5"):
        backbone_scorer(f"{tiny_scorer}&blocks=6", CPU, None)
    with pytest.raises(ValueError, match="pool must lie between"):
        backbone_scorer(f"{tiny_scorer}&pool=8", CPU, None)


def test_weights_that_are_not_the_ones_asked_for_are_refused(tiny_scorer):
    with pytest.raises(ArtifactError, match="0000 was asked for"):
        backbone_scorer(f"{tiny_scorer}&sha256=0000", CPU, None)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        backbone_scorer(tiny_scorer.replace("timm:test_vit", "timm:test_vit3"), CPU, None)


def test_hub_weights_come_at_the_pinned_revision_only(tiny_scorer, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--timm--test_vit.r160_in1k" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(TimmAddress.parse(tiny_scorer).weights, snapshot / "model.safetensors")
    script = (
        "import sys, torch; from mdmf_core.scoring.scorer_files import backbone_scorer\n"
        "for address in sys.argv[1:]: print(backbone_scorer(address, torch.device('cpu'), None).scorer_id, flush=True)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    addresses = [f"timm:test_vit.r160_in1k?revision={revision}" for revision in (commit, "f" * 40)]
    done = subprocess.run([sys.executable, "-c", script, *addresses], env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout), done.stderr[-2000:]  # the first, and no other
    assert (done.returncode, "ArtifactError" in done.stderr) == (1, True)


def read_default(name: str) -> bytes:
    return (DEFAULT / name).read_bytes()


def test_bundled_scorer_bank_and_calibration_belong_together():
    scorer = scorer_from_files(read_default, CPU, None)
    bank = bank_from_files(lambda name: read_default(f"bank/{name}"))
    calibration = calibration_from_file(read_default(f"bank/{CALIBRATION}"))
    require_match(scorer.scorer_id, bank, calibration)
    (calibrated,) = calibration.slices
    assert not {member.sha256 for member in bank.members} & set(calibrated.sha256s)
    roles = {row["sha256"]: row["role"] for row in pq.read_table(DEFAULT / SEEN).to_pylist()}
    assert {roles[member.sha256] for member in bank.members} == {"bank"}
    assert {roles[sha256] for sha256 in calibrated.sha256s} == {"calibrate"}


def test_an_image_scores_the_same_in_any_batch():
    scorer = scorer_from_files(read_default, CPU, None)
    bank = bank_from_files(lambda name: read_default(f"bank/{name}"))
    calibration = calibration_from_file(read_default(f"bank/{CALIBRATION}"))
    images = [crops_of(seed, 1 + 5 * seed % 16, 64) for seed in range(8)]

    def scores(some: list[np.ndarray]) -> list[float]:
        shapes = [ImageShape(300, 300, 90, None)] * len(some)
        return [row.score for row in scorer.score(scorer.extract(some), shapes, bank, calibration)]

    alone = [scores([image])[0] for image in images]
    for size in (3, 8):
        together = [score for start in range(0, 8, size) for score in scores(images[start : start + size])]
        assert np.abs(np.subtract(alone, together)).max() < 1e-5  # the stated tolerance


def test_a_scorer_directory_with_a_changed_byte_is_refused():
    weights = bytearray(read_default(TENSORS))
    weights[-1] ^= 1
    card = json.loads(read_default(CARD))
    with pytest.raises(ArtifactError, match="has sha256"):
        scorer_from_files({CARD: json.dumps(card).encode(), TENSORS: bytes(weights)}.__getitem__, CPU, None)
    card["sigma"] *= 2
    with pytest.raises(ArtifactError, match="digests to"):
        scorer_from_files({CARD: json.dumps(card).encode(), TENSORS: read_default(TENSORS)}.__getitem__, CPU, None)
    with pytest.raises(ArtifactError, match="not a scorer directory"):
        scorer_from_files({CARD: b"{}"}.__getitem__, CPU, None)


def test_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="must be auto"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="is not there"):
            choose_device("cuda")


def test_signature_round_trip_and_tensor_digest():
    module = PatchSignature(6, 5, 4)
    again = PatchSignature.from_tensors(module.state_dict())
    points = torch.randn(3, 6)
    assert torch.equal(module(points), again(points))
    assert tensors_digest(module.state_dict()) == tensors_digest(again.state_dict())
    with pytest.raises(ArtifactError, match="do not fit"):
        PatchSignature.from_tensors({"inner.weight": torch.zeros(5, 6)})
    assert tensors_digest({"a": torch.zeros(2)}) != tensors_digest({"a": torch.zeros(1, 2)})
