"""Scorers as files of one directory, and backbones by address: ``forensic`` or ``timm:MODEL?...``."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mdmf_core.digests import sha256_hex, tensors_digest
from mdmf_core.errors import ArtifactError
from mdmf_core.images.crops import CropPlan
from mdmf_core.scoring.scorer import Scorer, ScorerCard, Statistic, scorer_digest
from mdmf_core.signatures.compiled import CompiledBackbone
from mdmf_core.signatures.forensic import CROP, ForensicBackbone
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.signatures.timm_vit import TimmConfig, timm_backbone


def compiled(scorer: Scorer) -> Scorer:
    """The same scorer, its backbone compiled when it first runs."""
    return replace(scorer, backbone=CompiledBackbone(scorer.backbone, scorer.device.type == "cuda"))


CARD, TENSORS, SEEN = "scorer.json", "scorer.safetensors", "training.parquet"
# The paper's configuration: DINOv2 ViT-L/14 at 224 px, its 16 x 16 tokens averaged to K = 49 patches of W = 32 px.
PRESETS = {"mdmf-dinov2-l14": "timm:vit_large_patch14_dinov2.lvd142m?size=224&pool=32"}
_FORENSIC = {"kind": "forensic", "version": 2}
_PLAIN = Statistic({"mmd2": 1.0})  # of a bare backbone
_FORENSIC_CROPS = CropPlan(CROP, 16)


def choose_device(wanted: str) -> tuple[torch.device, torch.dtype | None]:
    """(device, autocast dtype) for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

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


@dataclass(frozen=True)
class TimmAddress:
    """``timm:MODEL?weights=FILE&sha256=HEX&revision=COMMIT&size=224&blocks=5,-1&pool=32&crops=1&encode=90``, parsed.

    ``encode`` is the JPEG quality that every crop passes before the backbone; see ``CropPlan``.
    """

    config: TimmConfig
    weights: str | None
    sha256: str | None
    revision: str | None
    crops: int
    encode: int | None

    @property
    def name(self) -> str:
        return f"timm:{self.config.model}"

    @property
    def crop_plan(self) -> CropPlan:
        return CropPlan(self.config.size, self.crops, self.encode)

    @classmethod
    def parse(cls, address: str) -> "TimmAddress":
        """Reads an address of ``timm:`` or a preset's, such as ``mdmf-dinov2-l14?weights=FILE``.

        Raises:
            ValueError: an unknown option, or a value that is not a number where one belongs.
        """
        preset, _, chosen = address.partition("?")
        if preset in PRESETS:
            address = f"{PRESETS[preset]}&{chosen}" if chosen else PRESETS[preset]
        model, _, query = address.removeprefix("timm:").partition("?")
        options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        known = {"weights", "sha256", "revision", "size", "blocks", "pool", "crops", "encode"}
        if set(options) - known:
            raise ValueError(f"{address}: unknown {', '.join(sorted(set(options) - known))}; known: {', '.join(sorted(known))}")
        config = TimmConfig(
            model=model,
            size=int(options.get("size", 224)),
            blocks=tuple(int(block) for block in options.get("blocks", "-1").split(",")),
            pool=int(options["pool"]) if "pool" in options else None,
        )
        crops, encode = int(options.get("crops", 1)), int(options["encode"]) if "encode" in options else None
        return cls(config, options.get("weights"), options.get("sha256"), options.get("revision"), crops, encode)


def backbone_scorer(address: str, device: torch.device, autocast: torch.dtype | None) -> Scorer:
    """A scorer on raw patch tokens, plain MMD^2, no learned PFS; its banks bring the bandwidth.

    Args:
        address: ``forensic``, ``timm:MODEL?...``, or a preset such as ``mdmf-dinov2-l14?weights=FILE``.

    Raises:
        ValueError, ArtifactError: as ``timm_backbone``; or a weights file that is not the one whose sha256 is given.
    """
    if address == "forensic":
        return _assemble("forensic", ForensicBackbone(), _FORENSIC, _FORENSIC_CROPS, None, _PLAIN, None, device, autocast)
    parsed = TimmAddress.parse(address)
    if parsed.weights is not None and parsed.sha256 is not None:
        with open(parsed.weights, "rb") as file:
            found = sha256_hex(file.read())
        if found != parsed.sha256:
            raise ArtifactError(f"{parsed.weights} has sha256 {found}, {parsed.sha256} was asked for")
    backbone = timm_backbone(parsed.config, parsed.weights, parsed.revision)
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


def is_backbone(reference: str) -> bool:
    """Whether a reference is an address of a backbone rather than a scorer's name or directory."""
    return reference == "forensic" or reference.startswith("timm:") or reference.partition("?")[0] in PRESETS


def with_signature(raw: Scorer, name: str, signature: PatchSignature | None, statistic: Statistic, sigma: float) -> Scorer:
    """The scorer of a backbone with a trained signature, statistic and bandwidth."""
    return _assemble(
        name, raw.backbone, dict(raw.backbone_record), raw.crops, signature, statistic, sigma, raw.device, raw.autocast
    )


def scorer_files(scorer: Scorer, address: str, training: Mapping[str, Any]) -> dict[str, bytes]:
    """A scorer directory's files. A timm backbone is named by its address and digest, not copied."""
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


def scorer_from_files(read: Callable[[str], bytes], device: torch.device, autocast: torch.dtype | None) -> Scorer:
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
        raw = backbone_scorer(address, device, autocast)
        found = tensors_digest(raw.backbone.state_dict())
        if found != card["backbone"]["weights_digest"]:
            raise ArtifactError(
                f"the backbone at {address} digests to {found}, scorer {card['name']!r} was trained with "
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
