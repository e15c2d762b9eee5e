"""A labelled set in memory: tokens under every condition, dealt to folds and roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from mdmf_core.errors import LabelError
from mdmf_core.training.labelled import LabelledImage, check_labelled, deal_folds, deal_roles
from mdmf_core.training.model_choice import Fold, ImageTokens
from mdmf_core.training.recipe import GENERATED, REAL, REGENERATED, TrainingTokens
from tasks.scoring.loading import load_scorer
from tasks.training.labelled_sets import list_labelled
from tasks.training.token_cache import ImageFacts, TokenCache, chunked, image_tokens, load_regenerators, per_image

HEADLINE = "jpeg-90"  # both classes re-encoded alike: what every choice and every headline figure is made on
CONDITIONS = ("stored", HEADLINE, "jpeg-70")


class TrainSettings(BaseModel):
    """What a training run does."""

    source: str
    out: str
    backbone: str
    objectives: tuple[str, ...]
    statistics: tuple[str, ...]
    seeds: int
    folds: int
    variants: int
    regenerated_variants: int
    regenerator_steps: int
    steps: int
    points: int
    top_k: int
    seed: int
    max_per_group: int | None
    accept_split_formats: bool
    cache: str
    device: str
    storage_block: str | None

    def conditions(self) -> list[str]:
        """Every condition under which tokens are needed."""
        return [
            *CONDITIONS,
            *(f"augmented-{variant}" for variant in range(self.variants)),
            *(f"regenerated-{variant}" for variant in range(self.regenerated_variants)),
        ]

    def images(self) -> list[LabelledImage]:
        """The labelled set, in order."""
        return list_labelled(self.source, "train", self.max_per_group, self.storage_block)

    def token_cache(self, images: Sequence[LabelledImage]) -> TokenCache:
        """The cache for these images; trains the regenerators when it has none for them yet."""
        networks = (
            load_regenerators(self.cache, images, self.regenerator_steps, self.seed, self.storage_block)
            if self.regenerated_variants
            else []
        )
        return TokenCache(self.cache, load_scorer(self.backbone, self.device, self.storage_block), self.seed, networks)


@dataclass(frozen=True)
class TrainingData:
    """All tokens of a run, in memory."""

    rows: TrainingTokens
    row_fold: np.ndarray
    row_role: np.ndarray
    row_embeddings: np.ndarray
    images: Mapping[str, ImageTokens]  # by condition; the images of all conditions are the same, in the same order
    fold: np.ndarray
    role: np.ndarray
    facts: tuple[ImageFacts, ...]
    excluded: int


def load(settings: TrainSettings, images: Sequence[LabelledImage], cache: TokenCache) -> TrainingData:
    chunks = chunked(images)
    by_group = deal_folds(images, settings.folds, settings.seed)
    loaded = {name: list(cache.read(chunks, name)) for name in CONDITIONS}
    facts = [entry for chunk in loaded["stored"] for entry in chunk.facts]
    # An image counts only if it has crops under every condition; the first of several copies in a group stands for all.
    usable = np.logical_and.reduce([np.concatenate([c.counts.numpy() for c in found]) > 0 for found in loaded.values()])
    first = {(f.generated, f.group, f.sha256): at for at, f in reversed(list(enumerate(facts)))}
    usable &= np.array([first[f.generated, f.group, f.sha256] == at for at, f in enumerate(facts)])
    kept = tuple(f for f, keep in zip(facts, usable, strict=True) if keep)
    check_labelled(
        [f.generated for f in kept], [f.group for f in kept], [f.sha256 for f in kept], [f.format for f in kept],
        settings.accept_split_formats,
    )  # fmt: skip
    roles = dict(zip([f.sha256 for f in kept], deal_roles([(f.generated, f.group, f.sha256) for f in kept]), strict=True))
    group_ids = {name: number for number, name in enumerate(sorted({f.group for f in kept}))}
    parts: list[tuple[torch.Tensor, torch.Tensor, int, ImageFacts]] = []
    for condition in settings.conditions()[len(CONDITIONS) :]:
        twin = condition.startswith("regenerated-")
        for chunk in cache.read(chunks, condition):
            for entry, tokens, embeddings in per_image(chunk):
                if len(tokens):
                    kind = REGENERATED if twin else GENERATED if entry.generated else REAL
                    parts.append((tokens, embeddings, kind, entry))
    if not parts:
        raise LabelError("no training crops: every image is excluded or smaller than one crop")

    def per_crop(values: list[Any]) -> np.ndarray:
        return np.repeat(np.array(values), [len(tokens) for tokens, *_ in parts])

    rows = TrainingTokens(
        torch.cat([tokens for tokens, *_ in parts]),
        per_crop([group_ids.get(entry.group, -1) for *_, entry in parts]),
        per_crop([kind for *_, kind, _ in parts]),
    )
    return TrainingData(
        rows=rows,
        row_fold=per_crop([by_group[entry.generated, entry.group] for *_, entry in parts]),
        row_role=per_crop([roles.get(entry.sha256, "none") for *_, entry in parts]),
        row_embeddings=torch.cat([embeddings for _, embeddings, *_ in parts]).float().numpy(),
        images={name: image_tokens(found, usable) for name, found in loaded.items()},
        fold=np.array([by_group[f.generated, f.group] for f in kept]),
        role=np.array([roles[f.sha256] for f in kept]),
        facts=kept,
        excluded=len(facts) - len(kept),
    )


def fold_of(data: TrainingData, number: int, folds: int) -> Fold:
    validate = (number + 1) % folds
    seen = ~np.isin(data.fold, (number, validate))
    counts = {role: int((seen & (data.role == role)).sum()) for role in ("bank", "calibrate")}
    if min(counts.values()) < 2:
        raise LabelError(
            f"training sources of fold {number + 1} hold {counts['bank']} images for the bank and {counts['calibrate']} for "
            "calibration; at least 2 of each are needed, so 8 real images of a source at the very least"
        )
    bank = data.images["stored"].subset(seen & (data.role == "bank"))
    rows = ~np.isin(data.row_fold, (number, validate)) & (data.row_role == "pfs")
    return Fold(
        train=data.rows.subset(np.flatnonzero(rows)),
        bank=bank,
        validate=data.images[HEADLINE].subset(data.fold == validate),
        test={
            **{name: images.subset(data.fold == number) for name, images in data.images.items()},
            "calibrate": data.images[HEADLINE].subset(seen & (data.role == "calibrate")),
        },
    )
