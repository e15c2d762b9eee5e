"""The MMD stage: coresets against all patches, and against the backbones that it follows.

Patches are signatures of the bundled scorer on the images of ``--data``; where there are fewer than asked for, they are drawn
again with 1 % noise. Exact and compressed score the same images.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from functools import partial

import numpy as np
import timm
import torch
from torch import Tensor

from benchmarks.harness.frame import Better, Part, Record, Setting, interleaved, ratio_record, timed
from mdmf_core.banks.bank import Slice
from mdmf_core.mmd.coreset import BLOCK_POINTS, Coreset, compress
from mdmf_core.records import ImageShape
from mdmf_core.scoring.scorer import Scorer, Signatures, Statistic
from mdmf_core.signatures.timm_vit import TimmBackbone, TimmConfig
from tasks.banks.real_images import collect, spooled
from tasks.scoring.loading import load_bank, load_scorer

EXACT, POINTS, IMAGES, REPEATS = 100_000, 1_000, 32, 7
LARGE = "vit_large_patch14_dinov2"  # seeded weights: its time does not depend on them


def more(patches: Tensor, count: int, seed: int) -> Tensor:
    """So many patches, the given ones drawn again with noise."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(patches), (count,), generator=draw)
    return patches[rows] * (1 + 0.01 * torch.randn(count, patches.shape[1], generator=draw))


def exact_and_compressed(scorer: Scorer, patches: Tensor, found: Signatures, setting: Setting) -> list[Record]:
    """Speed of the terms, and the largest error in MMD as a share of what the certificate allows."""
    sigma = scorer.sigma or 1.0

    def side(name: str, part: Slice, kept: dict[str, Tensor]) -> float:
        def run() -> None:
            kept[name] = scorer.terms(found.vectors, found.counts, (part,)).slice(0).mmd2

        return timed(run)

    every = more(patches, EXACT, 0)
    uniform = torch.full((EXACT,), 1 / EXACT, dtype=torch.float64)
    whole = Slice.of("all", Coreset(every, uniform, 0.0, EXACT), 1, sigma)
    records = []
    for method in ("herding", "thinning"):
        core = Slice.of("core", compress(iter(torch.split(every, BLOCK_POINTS)), POINTS, sigma, method), 1, sigma)
        kept: dict[str, Tensor] = {}
        sides = {"exact": partial(side, "exact", whole, kept), "coreset": partial(side, "coreset", core, kept)}
        seconds = interleaved(sides, REPEATS, setting.say)
        did = f"{len(found.counts)} images, {len(found.vectors)} patches against {EXACT:,} or {len(core.points):,} points"
        records.append(
            ratio_record(f"MMD by {method}, time over exact", seconds, "coreset", "exact", Better.LOWER, "s", 0.05, did)
        )
        gap = (kept["coreset"].clamp_min(0).sqrt() - kept["exact"].clamp_min(0).sqrt()).abs().max()
        share = float(gap) / core.error
        limits = {"largest error of MMD": Part(float(gap), ""), "certificate": Part(core.error, "")}
        name = f"MMD by {method}, error over its certificate"
        records.append(Record(name, share, Better.LOWER, share, share, 1, limits, 1.0, did))
    return records


def after_the_embedded_scorer(scorer: Scorer, crops: list[np.ndarray], setting: Setting) -> Record:
    bank, calibration = load_bank("forensic")
    shapes = [ImageShape(256, 256, 90, None)] * len(crops)
    found = scorer.extract(crops)
    seconds = interleaved(
        {
            "backbone and PFS": lambda: timed(lambda: scorer.extract(crops)),
            "MMD": lambda: timed(lambda: scorer.score(found, shapes, bank, calibration)),
        },
        REPEATS,
        setting.say,
    )
    did = f"{len(crops)} images, {sum(map(len, crops))} crops, {len(bank.slices)} slices of {bank.points} points together"
    return ratio_record(
        "MMD over the embedded scorer's backbone", seconds, "MMD", "backbone and PFS", Better.LOWER, "s", 0.15, did
    )


def after_a_large_vit(setting: Setting) -> Record:
    """DINOv2 ViT-L/14 at 224 px, 49 pooled patches of 1,024 numbers, no PFS: the widest signatures that there are."""
    torch.manual_seed(0)
    config = TimmConfig(f"{LARGE}.lvd142m", 224, (-1,), 32)
    backbone = TimmBackbone(timm.create_model(LARGE, pretrained=False, img_size=224), config)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    with torch.inference_mode():
        tokens = backbone(images).flatten(0, 1)
        sigma = float((tokens[0] - tokens[1:]).norm(dim=1).median())
        part = Slice("one", more(tokens, POINTS, 1), torch.full((POINTS,), 1 / POINTS), 0.0, POINTS, 1, sigma)
        scorer = load_scorer("forensic", "cpu")
        terms = Scorer(
            name="raw", scorer_id="0" * 64, backbone_record={}, crops=scorer.crops,
            statistic=Statistic({"mmd2": 1.0}), sigma=None,
            backbone=backbone, signature=None, device=scorer.device, autocast=None,
        ).terms  # fmt: skip
        seconds = interleaved(
            {
                "ViT-L/14": lambda: timed(lambda: backbone(images)),
                "MMD": lambda: timed(lambda: terms(tokens, [49, 49], (part,))),
            },
            3,
            setting.say,
        )
    did = f"2 images in float32, {POINTS} points of 1,024 numbers"
    return ratio_record("MMD over DINOv2 ViT-L/14", seconds, "MMD", "ViT-L/14", Better.LOWER, "s", 0.02, did)


def measured(scorer: Scorer, setting: Setting) -> tuple[Tensor, list[np.ndarray]]:
    """Signatures of images below ``--data``, and the crops of the first of them."""
    crops: list[np.ndarray] = []
    extract = scorer.extract

    def keeping(batch: list[np.ndarray]) -> Signatures:
        crops.extend(batch[: max(0, IMAGES - len(crops))])
        return extract(batch)

    object.__setattr__(scorer, "extract", keeping)
    with spooled() as append:
        images, _ = collect(str(setting.data), scorer, 120, "photo", None, append)
        patches = torch.cat([image.signatures() for image in images])
    object.__setattr__(scorer, "extract", extract)
    setting.say(f"{len(images)} images, {len(patches):,} patches")
    return patches, crops


def records(setting: Setting) -> list[Record]:
    scorer = load_scorer("forensic", "cpu")
    patches, crops = measured(scorer, setting)
    return [
        *exact_and_compressed(scorer, patches, scorer.extract(crops), setting),
        after_the_embedded_scorer(scorer, crops, setting),
        after_a_large_vit(setting),
    ]
