"""A labelled set in memory: tokens under every condition, dealt to folds and roles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from mdmf_core.errors import LabelError
from mdmf_core.training.conditions import NEUTRAL
from mdmf_core.training.labelled import CALIBRATE, LabelledImage, check_labelled, deal_folds, deal_roles
from mdmf_core.training.model_choice import Fold, ImageTokens
from mdmf_core.training.recipe import TrainingTokens
from tasks.scoring.loading import load_backbone
from tasks.training.labelled_sets import list_labelled
from tasks.training.token_cache import ImageFacts, TokenCache, chunked, image_tokens, per_image


class TrainSettings(BaseModel):
    """What a training run does."""

    source: str
    out: str
    backbone: str
    objectives: tuple[str, ...]
    statistics: tuple[str, ...]
    seeds: int
    folds: int
    views: int
    steps: int
    points: int
    top_k: int
    seed: int
    max_per_group: int | None
    accept_split_formats: bool
    cache: str
    device: str
    storage_block: str | None

    def all_seeds(self) -> list[int]:
        """Returns the seeds of the signatures that are joined into one."""
        return [self.seed + member for member in range(self.seeds)]

    def conditions(self) -> list[str]:
        """The views of every image. Signatures are trained on all of them; the first one is what everything else sees."""
        return [f"crawl-{view}" for view in range(self.views)]

    def images(self) -> list[LabelledImage]:
        """The labelled set, in order."""
        return list_labelled(self.source, "train", self.max_per_group, self.storage_block)

    def token_cache(self) -> TokenCache:
        """The cache of this backbone's tokens."""
        return TokenCache(self.cache, load_backbone(self.backbone, self.device))


@dataclass(frozen=True)
class TrainingData:
    """All tokens of a run, in memory."""

    rows: TrainingTokens
    row_fold: np.ndarray
    row_trains: np.ndarray  # whether signatures may be trained on the crop
    row_embeddings: np.ndarray
    images: ImageTokens  # under the neutral protocol
    fold: np.ndarray
    role: np.ndarray
    facts: tuple[ImageFacts, ...]
    excluded: int


def load(settings: TrainSettings, images: Sequence[LabelledImage], cache: TokenCache) -> TrainingData:
    chunks = chunked(images)
    by_group = deal_folds(images, settings.folds, settings.seed)
    neutral = list(cache.read(chunks, NEUTRAL))
    facts = [entry for chunk in neutral for entry in chunk.facts]
    # The first of several copies in a group stands for all.
    usable = np.concatenate([chunk.counts.numpy() for chunk in neutral]) > 0
    first = {(f.generated, f.group, f.sha256): at for at, f in reversed(list(enumerate(facts)))}
    usable &= np.array([first[f.generated, f.group, f.sha256] == at for at, f in enumerate(facts)])
    kept = tuple(f for f, keep in zip(facts, usable, strict=True) if keep)
    check_labelled(
        [f.generated for f in kept], [f.group for f in kept], [f.sha256 for f in kept], [f.format for f in kept],
        settings.accept_split_formats,
    )  # fmt: skip
    roles = dict(zip([f.sha256 for f in kept], deal_roles([(f.generated, f.group, f.sha256) for f in kept]), strict=True))
    group_ids = {name: number for number, name in enumerate(sorted({f.group for f in kept}))}
    parts: list[tuple[torch.Tensor, torch.Tensor, ImageFacts]] = []
    for condition in settings.conditions():
        for chunk in cache.read(chunks, condition):
            parts += [(tokens, embeddings, entry) for entry, tokens, embeddings in per_image(chunk) if len(tokens)]
    if not parts:
        raise LabelError("no training crops: every image is excluded or smaller than one crop")

    sizes = [len(tokens) for tokens, *_ in parts]

    def per_crop(values: list[Any]) -> np.ndarray:
        return np.repeat(np.array(values), sizes)

    rows = TrainingTokens(
        torch.cat([tokens for tokens, *_ in parts]),
        np.arange(sum(sizes)),
        per_crop([group_ids.get(entry.group, -1) for *_, entry in parts]),
        per_crop([entry.generated for *_, entry in parts]),
    )
    return TrainingData(
        rows=rows,
        row_fold=per_crop([by_group[entry.generated, entry.group] for *_, entry in parts]),
        row_trains=per_crop([roles.get(entry.sha256, CALIBRATE) != CALIBRATE for *_, entry in parts]),
        row_embeddings=torch.cat([embeddings for _, embeddings, _ in parts]).float().numpy(),
        images=image_tokens(neutral, usable),
        fold=np.array([by_group[f.generated, f.group] for f in kept]),
        role=np.array([roles[f.sha256] for f in kept]),
        facts=kept,
        excluded=len(facts) - len(kept),
    )


def fold_of(data: TrainingData, number: int) -> Fold:
    """One split: training with its bank and calibration, and the groups that it is tested on.

    Raises:
        LabelError: too few real images for bank or calibration.
    """
    seen = data.fold != number
    counts = {role: int((seen & (data.role == role)).sum()) for role in ("bank", CALIBRATE)}
    if min(counts.values()) < 2:
        raise LabelError(
            f"training sources of fold {number + 1} hold {counts['bank']} images for the bank and {counts[CALIBRATE]} for "
            "calibration; at least 2 of each are needed, so 5 real images of a source at the very least"
        )
    return Fold(
        train=data.rows.subset((data.row_fold != number) & data.row_trains),
        bank=data.images.subset(seen & (data.role == "bank")),
        test={
            NEUTRAL: data.images.subset(data.fold == number),
            CALIBRATE: data.images.subset(seen & (data.role == CALIBRATE)),
        },
    )
