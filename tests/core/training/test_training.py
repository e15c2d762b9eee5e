"""PFS training on tokens whose answer is known: objectives, gradients, start, choice."""

import numpy as np
import pytest
import torch

from mdmf_core.errors import LabelError
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.terms import mmd2_unbiased
from mdmf_core.training.baselines import LinearModel, train_probe, train_vote, vote
from mdmf_core.training.figures import auroc
from mdmf_core.training.model_choice import STATISTICS, Fold, ImageTokens, choose, image_terms, run_arm, scores, statistic_for
from mdmf_core.training.one_sided_start import discriminant, start_bandwidth, widened
from mdmf_core.training.pfs_training import fit, test_power
from mdmf_core.training.recipe import GENERATED, OBJECTIVES, REAL, REGENERATED, Recipe, TrainingTokens

test_power.__test__ = False  # an estimator, not a test
K, D = 6, 12


def tokens(seed: int, images: int, generated: bool, group: int, shift: float = 1.5) -> torch.Tensor:
    """Patches whose first direction tells the classes apart; the second tells groups, the others are noise."""
    found = torch.randn(images, K, D, generator=torch.Generator().manual_seed(seed))
    found[..., 0] += shift * generated
    found[..., 1] += 3.0 * (group % 3) - 3.0
    return found.half()


def rows(groups: int = 3, images: int = 60) -> TrainingTokens:
    kinds = [(g, kind) for g in range(groups) for kind in (REAL, GENERATED)]
    parts = [(tokens(10 * g + kind, images, kind == GENERATED, g), g, kind) for g, kind in kinds]
    return TrainingTokens(
        torch.cat([t for t, _, _ in parts]),
        np.repeat([g for _, g, _ in parts], images),
        np.repeat([kind for _, _, kind in parts], images),
    )


def image_set(seed: int, groups: tuple[int, ...], images: int = 30) -> ImageTokens:
    parts = [(tokens(seed + 10 * g + made, images, bool(made), g), g, bool(made)) for g in groups for made in (0, 1)]
    flat = torch.cat([t for t, _, _ in parts])
    made = np.repeat([m for _, _, m in parts], images)
    names = np.repeat([f"{'made' if m else 'real'}-{g}" for _, g, m in parts], images)
    return ImageTokens(
        list(flat), flat.float().mean(1).numpy(), made, names, np.full(len(made), "photo"), np.arange(len(made)).astype(str)
    )


def fold() -> Fold:
    bank = image_set(500, (0,))
    return Fold(rows(), bank.subset(~bank.generated), image_set(700, (1,)), {"jpeg-90": image_set(900, (2,))})


# ---------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("objective", ["mmd-d", "mmd-mp"])
def test_power_against_a_loop_in_float64(objective):
    x, y = (torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    n, sigma, floor = 7, 1.3, 1e-2
    k = [[float(gaussian(a[None], b[None], sigma)) for b in (*x, *y)] for a in (*x, *y)]
    h = [
        [k[i][j] + (k[n + i][n + j] if objective == "mmd-d" else 0.0) - k[i][n + j] - k[j][n + i] for j in range(n)]
        for i in range(n)
    ]
    mmd2 = sum(h[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    total = sum(map(sum, h))
    variance = 4 / n**3 * sum(sum(row) ** 2 for row in h) - 4 / n**4 * total**2
    assert float(test_power(x, y, sigma, objective, floor)) == pytest.approx(
        mmd2 / (max(variance, 0) + floor) ** 0.5, rel=1e-10
    )


def test_mmd_d_numerator_is_the_unbiased_mmd_up_to_its_paired_term():
    x, y = (torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    huge = 1e12  # the floor swamps the variance: what is left is the numerator
    numerator = float(test_power(x, y + 1, 1.0, "mmd-d", huge)) * huge**0.5
    n, cross = 40, gaussian(x, y + 1, 1.0)
    paired = 2 * float(cross.sum() / (n * n) - (cross.sum() - cross.diagonal().sum()) / (n * (n - 1)))
    assert numerator == pytest.approx(mmd2_unbiased(x, y + 1, 1.0) + paired, rel=1e-6)


@pytest.mark.parametrize("objective", ["mmd-d", "mmd-mp"])
def test_gradients_against_finite_differences(objective):
    x, y = (
        torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(s), requires_grad=True) for s in (4, 5)
    )
    sigma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, s: test_power(a, b, s, objective, 1e-2), (x, y, sigma))


def test_gradients_are_finite_where_points_coincide():
    x = torch.zeros(4, 2, requires_grad=True)
    test_power(x, torch.zeros(4, 2), 1.0, "mmd-d", 1e-2).backward()
    assert bool(torch.isfinite(x.grad).all())


# ---------------------------------------------------------------------------------------------------- the start


def test_the_discriminant_points_at_what_tells_the_classes_apart_and_not_the_sources():
    head = discriminant(rows(), Recipe())
    weight = head.inner.weight[0] / head.inner.weight[0].norm()
    assert float(weight[0]) > 0.95
    assert abs(float(weight[1])) < 0.1


def test_the_start_is_one_sided():
    head = discriminant(rows(), Recipe())
    below, far_below, above, far_above = (head(torch.eye(1, D) * value)[0, 0] for value in (-4.0, -8.0, 2.0, 3.0))
    assert abs(float(below - far_below)) < 0.05
    assert float(far_above - above) > 0.2


def test_training_without_a_class_is_refused():
    only_real = rows().subset(np.flatnonzero(rows().kinds == REAL))
    with pytest.raises(LabelError, match="180 real and 0 generated"):
        discriminant(only_real, Recipe())


def test_regenerated_crops_take_their_share_of_the_generated_weight():
    base = rows()
    # Regenerated images differ from real ones in direction 2 alone; with more weight on them the start turns that way.
    twins = tokens(77, 60, False, 0)
    twins[..., 2] += 1.5
    both = TrainingTokens(
        torch.cat([base.tokens, twins]),
        np.append(base.groups, np.zeros(60, int)),
        np.append(base.kinds, np.full(60, REGENERATED)),
    )
    turned = [float(discriminant(both, Recipe(regenerated=share)).inner.weight[0, 2]) for share in (0.0, 0.4, 0.8)]
    assert turned[0] < turned[1] < turned[2]


def test_widening_leaves_the_start_in_the_first_dimension():
    head = discriminant(rows(), Recipe())
    wide = widened(head, Recipe(), seed=3)
    some = rows().tokens[:5].flatten(0, 1).float()
    assert torch.allclose(wide(some)[:, 0], head(some)[:, 0], atol=1e-6)
    assert wide(some).shape == (30, Recipe().signature)


@pytest.mark.parametrize("values", [{"objective": "gan"}, {"regenerated": 1.0}, {"ridge": 0}, {"steps": 0}, {"patches": 1}])
def test_recipes_that_cannot_be_meant_are_refused(values):
    with pytest.raises(ValueError, match=r"objective must be|are needed"):
        Recipe(**values)


# ---------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_finds_unseen_groups(objective):
    arm = run_arm(fold(), Recipe(objective=objective, steps=20), seed=1, points=60, k=2)
    images = fold().test["jpeg-90"]
    assert np.isfinite(arm.test["jpeg-90"]).all()
    if objective != "none":  # raw tokens are swamped by the direction that tells the groups apart
        found = scores(statistic_for("cross", 2, arm.validate, fold().validate), arm.test["jpeg-90"])
        assert auroc(found[images.generated], found[~images.generated]) > 0.9


def test_training_repeats_from_its_seed_and_differs_between_seeds():
    recipe = Recipe(objective="mmd-d", steps=10)
    first, again, other = (fit(rows(), recipe, seed, None) for seed in (1, 1, 2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.signature.state_dict().values(), again.signature.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.signature.outer.weight, other.signature.outer.weight)


def test_early_stop_keeps_the_best_evaluation():
    figures = iter([0.5, 0.6, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    fitted = fit(rows(), Recipe(objective="bce", steps=100, patience=2), 0, lambda *_: next(figures))
    assert fitted.best_step == 20
    assert [figure for _, _, figure in fitted.curve] == [0.5, 0.6, 0.9, 0.1, 0.1]


def test_without_validation_all_steps_are_run():
    fitted = fit(rows(), Recipe(objective="bce", steps=30), 0, None)
    assert fitted.best_step == 30


def test_the_start_bandwidth_is_the_median_distance_of_signatures():
    head = discriminant(rows(), Recipe())
    assert 0.1 < start_bandwidth(head, rows()) < 3
    assert start_bandwidth(None, rows()) > start_bandwidth(head, rows())


# ---------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_rises_with_the_share_of_defects(name):
    arm = run_arm(fold(), Recipe(), seed=1, points=60, k=2)
    statistic = statistic_for(name, 2, arm.validate, fold().validate)
    clean = tokens(1234, 40, False, 0)
    means = []
    for defects in range(0, K + 1, 2):
        mixed = clean.clone()
        mixed[:, :defects, 0] += 3.0
        images = ImageTokens(
            list(mixed), np.zeros((40, 1)), np.zeros(40, bool), np.full(40, "a"), np.full(40, "p"), np.full(40, "")
        )
        bank = arm.fitted.signature(fold().bank.tokens[0].float())
        means.append(scores(statistic, image_terms(arm.fitted.signature, arm.fitted.sigma, bank, images, 2)).mean())
    assert means[-1] > means[0]
    if name != "mmd2":  # which also rewards an image for being all alike
        assert all(np.diff(means) > 0)


def test_the_fusion_is_monotone_whatever_the_data_say():
    arm = run_arm(fold(), Recipe(), seed=1, points=60, k=2)
    flipped = fold().validate
    flipped = ImageTokens(
        flipped.tokens, flipped.embeddings, ~flipped.generated, flipped.groups, flipped.domains, flipped.sha256s
    )
    for images in (fold().validate, flipped):
        terms = statistic_for("fusion", 2, arm.validate, images).terms
        assert terms.get("mmd2", 0) >= 0 >= terms.get("cross", 0)
        assert terms.get("top_k", 0) <= 0
        assert "self_term" not in terms


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="one of mmd2, cross"):
        statistic_for("median", 2, np.zeros((2, 4)), fold().validate)


def test_the_choice_is_made_on_validation_figures_alone():
    arms = [run_arm(fold(), Recipe(objective=name), 1, 60, 2) for name in ("none", "closed-form")]
    choice, figures = choose(arms, [fold(), fold()], STATISTICS, 2)
    assert choice.objective == "closed-form"
    assert set(figures) == {f"{objective} {name}" for objective in ("none", "closed-form") for name in STATISTICS}
    assert choice.figure == max(figures.values())


# ---------------------------------------------------------------------------------------------------- peers


def test_probe_and_vote_find_the_direction():
    train, test = rows(), image_set(900, (2,))
    probe = train_probe(train.tokens.float().mean(1).numpy(), train.kinds == GENERATED, train.groups, regularisation=1.0)
    found = probe.logits(test.embeddings)
    assert auroc(found[test.generated], found[~test.generated]) > 0.9
    voter = train_vote(train.tokens, train.kinds == GENERATED, train.groups)
    votes = vote(voter, test)
    assert auroc(votes[test.generated], votes[~test.generated]) > 0.9
    assert ((votes > 0) & (votes < 1)).all()
    again = LinearModel.from_tensors(probe.tensors("p"), "p")
    assert np.allclose(again.logits(test.embeddings), found)
