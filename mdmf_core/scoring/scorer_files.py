"""A scorer is kept as the files of one directory, or named as a backbone alone."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mdmf_core.digests import sha256_hex, tensors_digest
from mdmf_core.errors import ArtifactError
from mdmf_core.images.crops import CropPlan
from mdmf_core.scoring.backbone_address import Locate, TimmAddress
from mdmf_core.scoring.scorer import Scorer, ScorerCard, Statistic, scorer_digest
from mdmf_core.signatures.compiled import CompiledBackbone
from mdmf_core.signatures.forensic import CROP, ForensicBackbone
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.signatures.timm_vit import timm_backbone


def compiled(scorer: Scorer) -> Scorer:
    """Returns a scorer like this one, whose backbone is compiled when it first runs."""
    return replace(scorer, backbone=CompiledBackbone(scorer.backbone, scorer.device.type == "cuda"))


CARD, TENSORS, SEEN = "scorer.json", "scorer.safetensors", "training.parquet"
_FORENSIC = {"kind": "forensic", "version": 2}
_PLAIN = Statistic({"mmd2": 1.0})  # of a bare backbone
_FORENSIC_CROPS = CropPlan(CROP, 16)


def choose_device(wanted: str) -> tuple[torch.device, torch.dtype | None]:
    """Returns (device, autocast dtype) for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    CUDA computes the backbone in bfloat16 from compute capability 8.0 on and in float16 before; CPU in float32.

    Raises:
        ValueError: a device that this machine or this build of torch does not have.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    if name == "cpu":
        return torch.device("cpu"), None
    device = torch.device(name)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {wanted!r} is not there; torch sees {torch.cuda.device_count()} CUDA devices")
    capable = torch.cuda.get_device_capability(device) >= (8, 0)
    return device, torch.bfloat16 if capable else torch.float16


def backbone_scorer(address: str, device: torch.device, autocast: torch.dtype | None, locate: Locate | None = None) -> Scorer:
    """Makes a scorer on raw patch tokens, with plain MMD^2 and no learned PFS; its banks bring the bandwidth.

    Args:
        address: ``forensic``, ``timm:MODEL?...``, or a preset such as ``mdmf-dinov2-l14?weights=FILE``.
        locate: finds weights that the package index carries; None = such weights are refused.

    Raises:
        ValueError, ArtifactError: as ``timm_backbone``; or a weights file that is not the one whose sha256 is given.
    """
    if address == "forensic":
        return _assemble("forensic", ForensicBackbone(), _FORENSIC, _FORENSIC_CROPS, None, _PLAIN, None, device, autocast)
    parsed = TimmAddress.parse(address)
    backbone = timm_backbone(parsed.config, parsed.weights_file(locate), parsed.revision)
    return _assemble(parsed.name, backbone, parsed.config.record(), parsed.crop_plan, None, _PLAIN, None, device, autocast)


def backbone_card(address: str, scorer_id: str) -> ScorerCard:
    """The card of a bare backbone, which no file states: its id is what a bank says that was built with it.

    The digest is over the tensors as the network holds them, so that only the process that loads the weights can check it.

    Raises:
        ValueError: an address with an option that is unknown or no number.
    """
    if address == "forensic":
        return ScorerCard("forensic", scorer_id, _FORENSIC, _FORENSIC_CROPS, _PLAIN, None)
    parsed = TimmAddress.parse(address)
    return ScorerCard(parsed.name, scorer_id, parsed.config.record(), parsed.crop_plan, _PLAIN, None)


def card_from_files(read: Callable[[str], bytes]) -> ScorerCard:
    """The card of a scorer directory. Whoever loads the scorer checks its tensors against the id that stands here.

    Raises:
        ArtifactError: the card is missing, or not a scorer's.
    """
    try:
        card: dict[str, Any] = json.loads(read(CARD))
        raw = backbone_card(card["backbone"]["address"], card["scorer_id"])
        return replace(raw, name=card["name"], statistic=Statistic(**card["statistic"]), sigma=card["sigma"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"not a scorer directory: {type(error).__name__}: {error}") from error


def with_signature(raw: Scorer, name: str, signature: PatchSignature | None, statistic: Statistic, sigma: float) -> Scorer:
    """Makes the scorer of a backbone with a trained signature, statistic and bandwidth."""
    return _assemble(
        name, raw.backbone, dict(raw.backbone_record), raw.crops, signature, statistic, sigma, raw.device, raw.autocast
    )


def scorer_files(scorer: Scorer, address: str, training: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files of a scorer's directory. A timm backbone is named by its address and digest, not copied."""
    if scorer.signature is None:
        tensors = {}
    else:
        tensors = {f"pfs.{name}": value.cpu().contiguous() for name, value in scorer.signature.state_dict().items()}
    weights = save(tensors)
    card = {
        "name": scorer.name,
        "scorer_id": scorer.scorer_id,
        "backbone": {"address": address, "weights_digest": tensors_digest(scorer.backbone.state_dict())},
        "statistic": {"terms": dict(scorer.statistic.terms), "k": scorer.statistic.k},
        "sigma": scorer.sigma,
        "files": {TENSORS: sha256_hex(weights)},
        "training": dict(training),
    }
    return {TENSORS: weights, CARD: json.dumps(card, indent=1).encode() + b"\n"}


def scorer_from_files(
    read: Callable[[str], bytes], device: torch.device, autocast: torch.dtype | None, locate: Locate | None = None
) -> Scorer:
    """Reads a scorer directory: ``scorer.json`` and ``scorer.safetensors``, and the backbone that the card names.

    Raises:
        ArtifactError: a file is missing, damaged, or not what the card says; a backbone that is not the one trained with.
    """
    try:
        card: dict[str, Any] = json.loads(read(CARD))
        data = read(TENSORS)
        if sha256_hex(data) != card["files"][TENSORS]:
            raise ArtifactError(f"{TENSORS} has sha256 {sha256_hex(data)}, the card says {card['files'][TENSORS]}")
        tensors = {name.removeprefix("pfs."): value for name, value in load(data).items()}
        address, stated = card["backbone"]["address"], card["scorer_id"]
        raw = backbone_scorer(address, device, autocast, locate)
        digest = tensors_digest(raw.backbone.state_dict())
        if digest != card["backbone"]["weights_digest"]:
            raise ArtifactError(
                f"the backbone at {address} digests to {digest}, scorer {card['name']!r} was trained with "
                f"{card['backbone']['weights_digest']}"
            )
        signature = PatchSignature.from_tensors(tensors) if tensors else None
        scorer = with_signature(raw, card["name"], signature, Statistic(**card["statistic"]), card["sigma"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"not a scorer directory: {type(error).__name__}: {error}") from error
    if scorer.scorer_id != stated:
        raise ArtifactError(f"scorer {scorer.name!r} digests to {scorer.scorer_id}, its card says {stated}")
    return scorer


def _assemble(
    name: str,
    backbone: nn.Module,
    record: dict[str, Any],
    crops: CropPlan,
    signature: PatchSignature | None,
    statistic: Statistic,
    sigma: float | None,
    device: torch.device,
    autocast: torch.dtype | None,
) -> Scorer:
    scorer_id = scorer_digest(record, backbone, crops, signature, statistic, sigma)
    return Scorer(
        name=name,
        backbone=backbone.eval().requires_grad_(False).to(device),
        backbone_record=record,
        crops=crops,
        signature=None if signature is None else signature.requires_grad_(False).to(device),
        statistic=statistic,
        sigma=sigma,
        device=device,
        autocast=autocast,
        scorer_id=scorer_id,
    )
