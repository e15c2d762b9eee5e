"""Training on cached tokens: cross-validated choice, honest figures, and the scorer directory that `curate` uses."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors.torch import save

from mdmf_core.banks import BankMember, build_bank
from mdmf_core.calibration import CARD as CALIBRATION
from mdmf_core.coreset import herding
from mdmf_core.digests import digest_of
from mdmf_core.evaluation import Figure, per_generator, shuffled_labels, table
from mdmf_core.kernels import median_heuristic
from mdmf_core.labelled import LabelledImage
from mdmf_core.peers import PEERS, train_probe, train_vote, vote
from mdmf_core.scorers import SEEN, scorer_files, with_signature
from mdmf_core.scoring import Scorer, Statistic
from mdmf_core.selection import Arm, Choice, Fold, ImageTokens, bank_tokens, choose, run_arm, scores, signatures, statistic_for
from mdmf_core.training import GENERATED, REGENERATED, Fitted, Recipe, fit
from tasks.banks import CalibrationImage, calibrate, publish
from tasks.training_data import CONDITIONS, HEADLINE, TrainingData, TrainSettings, fold_of, load


@dataclass(frozen=True)
class Trained:
    """What a training run made, small enough to return."""

    directory: str
    scorer_id: str
    objective: str
    statistic: str
    images: int
    excluded: int
    auroc_mean: float  # over held-out generators
    auroc_pooled: float  # all held-out generated against all held-out real images
    table: str  # Markdown


def train(settings: TrainSettings, images: Sequence[LabelledImage], log: Callable[..., None]) -> Trained:
    """Cross-validates every arm, fits the best one on all groups and publishes it with bank and calibration.

    Raises:
        LabelError: a set from which nothing honest can be learned; LabelError names what is missing.
    """
    torch.set_flush_denormal(True)  # kernel values of far points are denormal: slow, and worth nothing
    cache = settings.token_cache(images)
    data = load(settings, images, cache)
    log("%d images with tokens, %d without; %d training crops", len(data.facts), data.excluded, len(data.rows.kinds))
    folds = [fold_of(data, number, settings.folds) for number in range(settings.folds)]
    arms = _all_arms(settings, folds, log)
    final_choice, figures = _choose(settings, arms, folds, range(settings.folds))
    # Fold f - 1 validated on the groups that fold f reports; every other fold may speak.
    nested = [
        _choose(settings, arms, folds, [g for g in range(settings.folds) if (g + 1) % settings.folds != f])[0]
        for f in range(settings.folds)
    ]
    held_out = _held_out(settings, data, folds, arms, nested)
    log("chosen: %s with %s, validation AUROC %.3f", final_choice.objective, final_choice.statistic, final_choice.figure)
    fitted, recipe = _final_fit(settings, data, arms, final_choice)
    statistic = _final_statistic(settings, arms, folds, final_choice)
    record = _record(settings, data, arms, figures, nested, final_choice, fitted, recipe, held_out)
    return _publish(settings, data, cache.scorer, fitted, statistic, record, final_choice, held_out)


def _choose(
    settings: TrainSettings, arms: Sequence[Sequence[Arm]], folds: Sequence[Fold], allowed: Iterable[int]
) -> tuple[Choice, dict[str, float]]:
    pairs = [(arm, folds[number]) for number in allowed for arm in arms[number]]
    return choose([arm for arm, _ in pairs], [fold for _, fold in pairs], settings.statistics, settings.top_k)


def _recipe(settings: TrainSettings, objective: str) -> Recipe:
    return Recipe(objective=objective, steps=settings.steps, regenerated=0.4 if settings.regenerated_variants else 0.0)  # type: ignore[arg-type]


def _all_arms(settings: TrainSettings, folds: Sequence[Fold], log: Callable[..., None]) -> list[list[Arm]]:
    """Every objective and seed on every fold; objectives without a random part are run once."""
    found: list[list[Arm]] = []
    for number, fold in enumerate(folds):
        arms = []
        for objective in settings.objectives:
            for seed in range(1 if objective in ("none", "closed-form") else settings.seeds):
                arms.append(run_arm(fold, _recipe(settings, objective), settings.seed + seed, settings.points, settings.top_k))
                best = max(figure for _, _, figure in arms[-1].fitted.curve)
                log("fold %d of %d, %s, seed %d: validation AUROC %.3f", number + 1, len(folds), objective, seed, best)
        found.append(arms)
    return found


@dataclass(frozen=True)
class _HeldOut:
    """Scores of every image by a model that saw neither its group nor chose on it, in units of that model's real images."""

    by_condition: Mapping[str, np.ndarray]
    by_seed: Mapping[int, np.ndarray]  # headline condition
    by_peer: Mapping[str, np.ndarray]  # headline condition
    line_passed: Mapping[str, float]  # real source -> share above its model's 5 % line

    def tables(self, images: ImageTokens) -> dict[str, list[Figure]]:
        named = {f"mdmf, {name}": values for name, values in self.by_condition.items()} | dict(self.by_peer)
        return {
            name: table(v, images.generated.tolist(), images.groups.tolist(), images.domains.tolist())
            for name, v in named.items()
        }


def _standardised(values: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Scores of different folds' models on one scale: that of the real images that each was calibrated with."""
    scaled: Float[np.ndarray, " n"] = (values - real.mean()) / (real.std() + 1e-12)
    return scaled


def _held_out(
    settings: TrainSettings, data: TrainingData, folds: Sequence[Fold], arms: Sequence[Sequence[Arm]], nested: Sequence[Choice]
) -> _HeldOut:
    count = len(data.facts)
    by_condition = {name: np.zeros(count) for name in CONDITIONS}
    by_seed = {seed: np.zeros(count) for seed in range(settings.seeds)}
    by_peer = {name: np.zeros(count) for name in ("global probe", "patch vote", "plain mmd")}
    line_passed: dict[str, float] = {}
    for number, (fold, found, chosen) in enumerate(zip(folds, arms, nested, strict=True)):
        here = data.fold == number
        of_objective = [arm for arm in found if arm.recipe.objective == chosen.objective]
        for seed in by_seed:
            arm = of_objective[seed % len(of_objective)]
            statistic = statistic_for(chosen.statistic, settings.top_k, arm.validate, fold.validate)
            real = scores(statistic, arm.test["calibrate"])
            values = {name: _standardised(scores(statistic, arm.test[name]), real) for name in CONDITIONS}
            by_seed[seed][here] = values[HEADLINE]
            if seed == 0:
                for name in CONDITIONS:
                    by_condition[name][here] = values[name]
                line = np.quantile(_standardised(real, real), 0.95)
                test = fold.test[HEADLINE]
                for source in np.unique(test.groups[~test.generated]):
                    line_passed[str(source)] = float(
                        (values[HEADLINE][(test.groups == source) & ~test.generated] > line).mean()
                    )
        for name, values_of in _peers(data, fold, number, settings.folds, found).items():
            by_peer[name][here] = _standardised(
                values_of(fold.test[HEADLINE], HEADLINE), values_of(fold.test["calibrate"], "calibrate")
            )
    return _HeldOut(by_condition, by_seed, by_peer, line_passed)


def _peers(
    data: TrainingData, fold: Fold, number: int, folds: int, arms: Sequence[Arm]
) -> dict[str, Callable[[ImageTokens, str], np.ndarray]]:
    """The peers on the fold's training images; plain MMD is the arm without PFS, where it was run."""
    seen = ~np.isin(data.row_fold, (number, (number + 1) % folds)) & (data.row_role == "pfs") & (data.rows.kinds != REGENERATED)
    rows = data.rows.subset(np.flatnonzero(seen))
    generated = rows.kinds == GENERATED
    probe = train_probe(data.row_embeddings[seen], generated, rows.groups)
    voter = train_vote(rows.tokens, generated, rows.groups)
    found: dict[str, Callable[[ImageTokens, str], np.ndarray]] = {
        "global probe": lambda images, _: probe.logits(images.embeddings),
        "patch vote": lambda images, _: vote(voter, images),
    }
    plain = next((arm for arm in arms if arm.recipe.objective == "none"), None)
    if plain is not None:
        found["plain mmd"] = lambda _, condition: plain.test[condition][:, 0]
    return found


def _final_fit(
    settings: TrainSettings, data: TrainingData, arms: Sequence[Sequence[Arm]], choice: Choice
) -> tuple[Fitted, Recipe]:
    """The chosen objective on all groups, for as many steps as served the folds."""
    chosen = [arm for found in arms for arm in found if arm.recipe.objective == choice.objective]
    steps = max(1, int(np.median([arm.fitted.best_step for arm in chosen])))
    recipe = replace(_recipe(settings, choice.objective), steps=steps)
    return fit(data.rows.subset(np.flatnonzero(data.row_role == "pfs")), recipe, settings.seed, None), recipe


def _final_statistic(
    settings: TrainSettings, arms: Sequence[Sequence[Arm]], folds: Sequence[Fold], choice: Choice
) -> Statistic:
    """The chosen statistic; of a fusion, the mean of the weights that the folds' validation groups gave."""
    fitted = [
        statistic_for(choice.statistic, settings.top_k, arm.validate, fold.validate)
        for found, fold in zip(arms, folds, strict=True)
        for arm in found
        if arm.recipe.objective == choice.objective
    ]
    names = sorted({name for statistic in fitted for name in statistic.terms})
    return Statistic({name: float(np.mean([s.terms.get(name, 0.0) for s in fitted])) for name in names}, settings.top_k)


def _record(
    settings: TrainSettings,
    data: TrainingData,
    arms: Sequence[Sequence[Arm]],
    validation: Mapping[str, float],
    nested: Sequence[Choice],
    choice: Choice,
    fitted: Fitted,
    recipe: Recipe,
    held_out: _HeldOut,
) -> dict[str, Any]:
    """The card's account of the training run."""
    images = data.images[HEADLINE]
    tables = held_out.tables(images)
    by_seed = [
        float(
            np.mean(
                list(
                    per_generator(table(v, images.generated.tolist(), images.groups.tolist(), images.domains.tolist())).values()
                )
            )
        )
        for v in held_out.by_seed.values()
    ]
    groups = Counter(("generated" if f.generated else "real", f.group) for f in data.facts)
    folds = {(("generated" if f.generated else "real"), f.group): int(n) for f, n in zip(data.facts, data.fold, strict=True)}
    return {
        "code_version": version("mdmf"),
        "data": {
            "digest": digest_of({"images": sorted([f.sha256, f.generated, f.group] for f in data.facts)}),
            "images": len(data.facts),
            "excluded": data.excluded,
            "groups": [
                {"label": label, "group": group, "images": count, "fold": folds[label, group]}
                for (label, group), count in sorted(groups.items())
            ],
        },
        "settings": settings.model_dump(exclude={"source", "out", "cache", "device", "storage_block"}),
        "recipe": asdict(recipe),
        "validation_auroc": {name: round(value, 4) for name, value in sorted(validation.items())},
        "chosen": asdict(choice),
        "chosen_by_fold": [asdict(found) for found in nested],
        "curves": [
            {"fold": number, "objective": arm.recipe.objective, "seed": arm.seed, "steps": arm.fitted.curve}
            for number, found in enumerate(arms)
            for arm in found
            if arm.recipe.objective == choice.objective
        ],
        "final_sigma": fitted.sigma,
        "held_out": {
            "what": "every image scored by a model that saw no image of its group; choices made on other held-out groups",
            "auroc_mean_by_seed": [round(value, 4) for value in by_seed],
            "real_flagged_at_5_percent": {name: round(value, 4) for name, value in sorted(held_out.line_passed.items())},
            "control_shuffled_labels": asdict(shuffled_labels(held_out.by_condition[HEADLINE], images.generated.tolist())),
            "tables": {name: [_rounded(asdict(figure)) for figure in figures] for name, figures in tables.items()},
        },
    }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _publish(
    settings: TrainSettings,
    data: TrainingData,
    raw: Scorer,
    fitted: Fitted,
    statistic: Statistic,
    record: dict[str, Any],
    choice: Choice,
    held_out: _HeldOut,
) -> Trained:
    name = os.path.basename(settings.out.rstrip("/"))
    scorer = with_signature(raw, name, fitted.signature, statistic, fitted.sigma)
    stored = data.images["stored"]
    in_bank = (data.role == "bank") & ~stored.generated
    vectors = signatures(scorer.signature, bank_tokens(stored.subset(in_bank), 20_000))
    members = [
        BankMember(f.group, os.path.basename(f.url), f.sha256, f.domain)
        for f, use in zip(data.facts, in_bank, strict=True)
        if use
    ]
    bank = build_bank(name, scorer.scorer_id, vectors, members, settings.points, fitted.sigma)
    used = np.flatnonzero((data.role == "calibrate") & ~stored.generated).tolist()
    held = [
        CalibrationImage(
            data.facts[at].sha256, data.facts[at].width, data.facts[at].height, data.facts[at].jpeg_quality,
            signatures(scorer.signature, stored.tokens[at]),
        )
        for at in used
    ]  # fmt: skip
    calibration = calibrate(scorer, bank, held, "photo")
    seen = pa.table(
        {
            "sha256": [f.sha256 for f in data.facts],
            "label": ["generated" if f.generated else "real" for f in data.facts],
            "group": [f.group for f in data.facts],
            "fold": data.fold,
            "role": data.role,
        }
    )
    buffer = io.BytesIO()
    pq.write_table(seen, buffer, compression="zstd")
    contents = {f"bank/{key}": value for key, value in ({CALIBRATION: calibration.file()} | bank.files()).items()}
    contents |= {SEEN: buffer.getvalue(), PEERS: _peer_weights(data)} | scorer_files(scorer, settings.backbone, record)
    publish(settings.out, contents, settings.storage_block)
    figures = held_out.tables(data.images[HEADLINE])[f"mdmf, {HEADLINE}"]
    pooled = next(figure for figure in figures if figure.name == "all generators")
    mean = float(np.mean(list(per_generator(figures).values())))
    return Trained(
        settings.out, scorer.scorer_id, choice.objective, choice.statistic, len(data.facts), data.excluded, mean, pooled.auroc,
        markdown(figures),
    )  # fmt: skip


def _peer_weights(data: TrainingData) -> bytes:
    """The peers on the same training images, for `evaluate`; plain MMD is a bank of raw tokens."""
    used = np.flatnonzero((data.row_role == "pfs") & (data.rows.kinds != REGENERATED))
    rows = data.rows.subset(used)
    generated = rows.kinds == GENERATED
    raw = bank_tokens(data.images["stored"].subset((data.role == "bank") & ~data.images["stored"].generated)).float()
    sigma = median_heuristic(raw)
    tensors = train_probe(data.row_embeddings[used], generated, rows.groups).tensors("probe")
    tensors |= train_vote(rows.tokens, generated, rows.groups).tensors("vote")
    tensors |= {"plain.points": raw[herding(raw, min(500, len(raw)), sigma)[0]], "plain.sigma": torch.tensor([sigma])}
    return save(tensors)


def markdown(figures: Sequence[Figure]) -> str:
    """A table of figures for people."""
    lines = [
        "| generator | generated | real | AUROC | 95 % interval | AP (at prevalence) | TPR at 1 % | TPR at 5 % |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {f.name} | {f.generated} | {f.real} | {f.auroc:.3f} | {f.low:.3f} to {f.high:.3f} | "
        f"{f.average_precision:.3f} ({f.prevalence:.2f}) | {f.tpr_at_1:.3f} | {f.tpr_at_5:.3f} |"
        for f in figures
    ]
    return "\n".join(lines) + "\n"
