"""Training on cached tokens: every arm on every fold, the choice, the figures of unseen groups, the final fit."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from mdmf_core.training.baselines import Peers
from mdmf_core.training.conditions import NEUTRAL
from mdmf_core.training.labelled import CALIBRATE, LabelledImage
from mdmf_core.training.model_choice import Arm, Choice, Fold, ImageTokens, choose, run_arm, scores, statistic_of
from mdmf_core.training.pfs_training import fit
from mdmf_core.training.recipe import Recipe
from tasks.training.dataset import TrainingData, TrainSettings, fold_of, load
from tasks.training.scorer_directory import HeldOut, Trained, publish_scorer, training_record


def train(settings: TrainSettings, images: Sequence[LabelledImage], log: Callable[..., None]) -> Trained:
    """Cross-validates every arm, fits the best one on all groups and publishes it with bank and calibration.

    Raises:
        LabelError: a set from which nothing honest can be learned; LabelError names what is missing.
    """
    torch.set_flush_denormal(True)  # kernel values of far points are denormal: slow, and worth nothing
    cache = settings.token_cache()
    data = load(settings, images, cache)
    log("%d images with tokens, %d without; %d training crops", len(data.facts), data.excluded, len(data.rows.crops))
    folds = [fold_of(data, number) for number in range(settings.folds)]
    arms = _all_arms(settings, folds, log)
    numbers = range(settings.folds)
    final_choice, figures = _choose(settings, arms, folds, numbers)
    nested = [_choose(settings, arms, folds, [g for g in numbers if g != reported])[0] for reported in numbers]
    held_out = _held_out(settings, data, folds, arms, nested)
    log(
        "chosen: %s with %s, AUROC on held-out groups %.3f", final_choice.objective, final_choice.statistic, final_choice.figure
    )
    recipe = _recipe(settings, final_choice.objective)
    fitted = fit(data.rows.subset(data.row_trains), recipe, settings.all_seeds())
    statistic = statistic_of(final_choice.statistic, settings.top_k)
    tables = held_out.tables(data.images)
    record = training_record(settings, data, arms, figures, nested, final_choice, fitted, recipe, held_out, tables)
    return publish_scorer(settings, data, cache.scorer, fitted, statistic, record, final_choice, tables["mdmf"])


def _choose(
    settings: TrainSettings, arms: Sequence[Sequence[Arm]], folds: Sequence[Fold], allowed: Iterable[int]
) -> tuple[Choice, dict[str, float]]:
    pairs = [(arm, folds[number]) for number in allowed for arm in arms[number]]
    return choose([arm for arm, _ in pairs], [fold for _, fold in pairs], settings.statistics, settings.top_k, NEUTRAL)


def _recipe(settings: TrainSettings, objective: str) -> Recipe:
    return Recipe(objective=objective, steps=settings.steps)  # type: ignore[arg-type]


def _all_arms(settings: TrainSettings, folds: Sequence[Fold], log: Callable[..., None]) -> list[list[Arm]]:
    """Every objective on every fold."""
    found: list[list[Arm]] = []
    for number, fold in enumerate(folds):
        found.append([])
        for objective in settings.objectives:
            found[-1].append(run_arm(fold, _recipe(settings, objective), settings.all_seeds(), settings.points, settings.top_k))
            log("fold %d of %d: %s is trained", number + 1, len(folds), objective)
    return found


def _held_out(
    settings: TrainSettings, data: TrainingData, folds: Sequence[Fold], arms: Sequence[Sequence[Arm]], nested: Sequence[Choice]
) -> HeldOut:
    held_out: dict[str, np.ndarray] = {}
    flagged: dict[str, float] = {}
    for number, (fold, found, chosen) in enumerate(zip(folds, arms, nested, strict=True)):
        statistic = statistic_of(chosen.statistic, settings.top_k)
        arm = next(arm for arm in found if arm.recipe.objective == chosen.objective)
        peers = Peers.train(fold.train, data.row_embeddings)
        test = {"mdmf": scores(statistic, arm.test[NEUTRAL])} | peers.scores(fold.test[NEUTRAL])
        for raw in (arm for arm in found if arm.recipe.objective == "none"):
            test["plain mmd"] = raw.test[NEUTRAL][:, 0]
        here = data.fold == number
        for name, values in test.items():
            held_out.setdefault(name, np.zeros(len(here)))[here] = values
        real = scores(statistic, arm.test[CALIBRATE])
        flagged |= _flagged(test["mdmf"], fold.test[NEUTRAL], data.role[here], real, fold.test[CALIBRATE])
    return HeldOut(held_out, flagged)


def _flagged(
    values: Float[np.ndarray, " n"], images: ImageTokens, role: np.ndarray, real: Float[np.ndarray, " m"], seen: ImageTokens
) -> dict[str, float]:
    """Share of every unseen real source above the line that 5 % of its domain's calibration exceed.

    The signatures and the bank have seen no image of the source. Its own calibration images set the line together with those of
    the other sources of its domain (``real``, of the images ``seen``); its other images are tested.
    """
    shares = {}
    for source in np.unique(images.groups[~images.generated]):
        own = (images.groups == source) & ~images.generated
        same = seen.domains == images.domains[own][0]
        line = np.quantile(np.concatenate([real[same], values[own & (role == CALIBRATE)]]), 0.95)
        shares[str(source)] = float((values[own & (role != CALIBRATE)] > line).mean())
    return shares
