"""Training on cached tokens: every arm on every fold, the choice, the figures of unseen groups, the final fit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from mdmf_core.scoring.scorer import Statistic
from mdmf_core.training.baselines import train_probe, train_vote, vote
from mdmf_core.training.labelled import LabelledImage
from mdmf_core.training.model_choice import Arm, Choice, Fold, ImageTokens, choose, run_arm, scores, statistic_for
from mdmf_core.training.pfs_training import Fitted, fit
from mdmf_core.training.recipe import GENERATED, REGENERATED, Recipe
from tasks.training.dataset import CONDITIONS, HEADLINE, TrainingData, TrainSettings, fold_of, load
from tasks.training.scorer_directory import HeldOut, Trained, publish_scorer, training_record


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
    record = training_record(settings, data, arms, figures, nested, final_choice, fitted, recipe, held_out)
    return publish_scorer(settings, data, cache.scorer, fitted, statistic, record, final_choice, held_out)


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


def _standardised(values: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Scores of different folds' models on one scale: that of the real images that each was calibrated with."""
    scaled: Float[np.ndarray, " n"] = (values - real.mean()) / (real.std() + 1e-12)
    return scaled


def _held_out(
    settings: TrainSettings, data: TrainingData, folds: Sequence[Fold], arms: Sequence[Sequence[Arm]], nested: Sequence[Choice]
) -> HeldOut:
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
    return HeldOut(by_condition, by_seed, by_peer, line_passed)


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
