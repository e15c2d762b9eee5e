"""PFS training on tokens whose answer is known: objectives, gradients, joined seeds, choice."""

import numpy as np
import pytest
import torch

from mdmf_core.errors import LabelError
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.terms import mmd2_unbiased
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.training.baselines import LinearModel, Peers, train_probe, train_vote, vote
from mdmf_core.training.figures import auroc
from mdmf_core.training.model_choice import STATISTICS, Fold, ImageTokens, choose, image_terms, run_arm, scores, statistic_of
from mdmf_core.training.pfs_training import fit, joined, test_power
from mdmf_core.training.recipe import OBJECTIVES, Recipe, TrainingTokens

test_power.__test__ = False  # an estimator, not a test
K, D = 6, 12


def tokens(seed: int, images: int, generated: bool, group: int, shift: float = 2.0) -> torch.Tensor:
    """Patches whose first direction tells the classes apart; the second tells groups, the others are noise."""
    found = torch.randn(images, K, D, generator=torch.Generator().manual_seed(seed))
    found[..., 0] += shift * generated
    found[..., 1] += 3.0 * (group % 3) - 3.0
    return found.half()


def rows(groups: int = 3, images: int = 60) -> TrainingTokens:
    kinds = [(g, generated) for g in range(groups) for generated in (False, True)]
    return TrainingTokens(
        torch.cat([tokens(10 * g + generated, images, generated, g) for g, generated in kinds]),
        np.arange(len(kinds) * images),
        np.repeat([g for g, _ in kinds], images),
        np.repeat([generated for _, generated in kinds], images),
    )


def image_set(seed: int, groups: tuple[int, ...], images: int = 30) -> ImageTokens:
    parts = [(tokens(seed + 10 * g + made, images, bool(made), g), g, bool(made)) for g in groups for made in (0, 1)]
    flat = torch.cat([t for t, _, _ in parts])
    made = np.repeat([m for _, _, m in parts], images)
    names = np.repeat([f"{'made' if m else 'real'}-{g}" for _, g, m in parts], images)
    return ImageTokens(
        list(flat), flat.float().mean(1).numpy(), made, names, np.full(len(made), "photo"), np.full(len(made), None),
        np.arange(len(made)).astype(str),
    )  # fmt: skip


def fold() -> Fold:
    bank = image_set(500, (0, 1, 2))
    return Fold(rows(), bank.subset(~bank.generated), {"crawl-0": image_set(900, (2,))})


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


# ------------------------------------------------------------------------------------------------ one signature and several


def test_the_kernel_of_joined_signatures_is_the_geometric_mean_of_theirs():
    members = [(PatchSignature(D, 5, 3), 0.7), (PatchSignature(D, 5, 3), 1.9)]
    x, y = (torch.randn(4, D, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with torch.no_grad():
        kernels = [gaussian(head(x), head(y), sigma) for head, sigma in members]
        whole = joined(members)
        found = gaussian(whole(x), whole(y), 1.0)
    assert torch.allclose(found, (kernels[0] * kernels[1]).sqrt(), atol=1e-6)
    assert whole(x).shape == (4, 6)


def test_one_signature_joined_is_itself_at_bandwidth_1():
    head = PatchSignature(D, 5, 3)
    assert torch.allclose(joined([(head, 2.0)])(torch.ones(1, D)), head(torch.ones(1, D)) / 2, atol=1e-6)


@pytest.mark.parametrize(("generated", "message"), [(False, "180 real and 0 generated"), (True, "0 real and 180 generated")])
def test_training_without_a_class_is_refused(generated, message):
    with pytest.raises(LabelError, match=message):
        fit(rows().subset(rows().generated == generated), Recipe(), [0])


def test_subsets_share_the_tokens_and_draw_from_their_own_crops():
    every = rows()
    some = every.subset(every.groups == 1).subset(np.arange(0, 120, 2))
    assert some.tokens is every.tokens
    assert torch.equal(some.some(1000), every.tokens[torch.from_numpy(some.crops)].flatten(0, 1))
    assert len(some.some(7)) <= 7 * K


@pytest.mark.parametrize("values", [{"objective": "gan"}, {"dropout": 1.0}, {"steps": 0}, {"patches": 1}])
def test_recipes_that_cannot_be_meant_are_refused(values):
    with pytest.raises(ValueError, match=r"objective must be|are needed"):
        Recipe(**values)


# ---------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_finds_unseen_groups(objective):
    arm = run_arm(fold(), Recipe(objective=objective, steps=200, patches=64), seeds=[1, 2], points=60, k=2)
    images = fold().test["crawl-0"]
    assert np.isfinite(arm.test["crawl-0"]).all()
    if objective != "none":  # raw tokens are swamped by the direction that tells the groups apart
        found = scores(statistic_of("cross", 2), arm.test["crawl-0"])
        assert auroc(found[images.generated], found[~images.generated]) > 0.9


def test_training_repeats_from_its_seeds_and_differs_between_them():
    recipe = Recipe(steps=10, patches=32)
    first, again, other = (fit(rows(), recipe, [seed]) for seed in (1, 1, 2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.signature.state_dict().values(), again.signature.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.signature.outer.weight, other.signature.outer.weight)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(rows(), Recipe(steps=2, patches=16), [1])
    assert torch.equal(torch.rand(3), expected)


def test_the_loss_falls_and_is_kept_for_every_seed():
    fitted = fit(rows(), Recipe(steps=100, patches=64), [0, 1])
    assert [len(curve) for curve in fitted.curves] == [10, 10]
    assert all(curve[-1] < curve[0] for curve in fitted.curves)
    assert fitted.sigma == 1.0


# ---------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_rises_with_the_share_of_defects(name):
    fitted = fit(rows(), Recipe(steps=60, patches=64), [1])
    clean = tokens(1234, 40, False, 0)
    bank = fitted.signature(tokens(500, 20, False, 0).flatten(0, 1).float())
    means = []
    for defects in range(0, K + 1, 2):
        mixed = clean.clone()
        mixed[:, :defects, 0] += 3.0
        images = ImageTokens(
            list(mixed), np.zeros((40, 1)), np.zeros(40, bool), *(np.full(40, value) for value in ("a", "p", None, ""))
        )
        means.append(scores(statistic_of(name, 2), image_terms(fitted.signature, fitted.sigma, bank, images, 2)).mean())
    assert means[-1] > means[0]
    if name != "mmd2":  # which also rewards an image for being all alike
        assert all(np.diff(means) > 0)


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="one of mmd2, cross"):
        statistic_of("median", 2)


def test_the_choice_is_made_on_the_given_folds_alone():
    recipes = [Recipe(objective=name, steps=60, patches=64) for name in ("none", "mmd-d")]
    arms = [run_arm(fold(), recipe, [1], 60, 2) for recipe in recipes]
    choice, figures = choose(arms, [fold(), fold()], list(STATISTICS), 2, "crawl-0")
    assert choice.objective == "mmd-d"
    assert set(figures) == {f"{objective} {name}" for objective in ("none", "mmd-d") for name in STATISTICS}
    assert choice.figure == max(figures.values())


# ---------------------------------------------------------------------------------------------------- peers


def test_probe_and_vote_find_the_direction():
    train, test = rows(), image_set(900, (2,))
    probe = train_probe(train.tokens.float().mean(1).numpy(), train.generated, train.groups, regularisation=1.0)
    found = probe.logits(test.embeddings)
    assert auroc(found[test.generated], found[~test.generated]) > 0.9
    voter = train_vote(train)
    votes = vote(voter, test)
    assert auroc(votes[test.generated], votes[~test.generated]) > 0.9
    assert ((votes > 0) & (votes < 1)).all()
    again = LinearModel.from_tensors(probe.tensors("p"), "p")
    assert np.allclose(again.logits(test.embeddings), found)


def test_peers_score_the_same_after_a_round_trip_through_a_file():
    train, test = rows(), image_set(900, (2,))
    peers = Peers.train(train, train.tokens.float().mean(1).numpy())
    found, again = peers.scores(test), Peers.from_tensors(peers.tensors()).scores(test)
    assert list(found) == ["class-token probe", "mean-token probe", "patch vote"]
    for name, values in found.items():
        assert np.allclose(values, again[name])
        assert auroc(values[test.generated], values[~test.generated]) > 0.8
