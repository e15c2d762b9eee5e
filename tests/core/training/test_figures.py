"""Detection figures against scikit-learn and hand cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from mdmf_core.training.figures import auroc, auroc_interval, average_precision, tpr_at_fpr

SCORES = st.lists(st.integers(-6, 6).map(lambda v: v / 4), min_size=1, max_size=40).map(np.array)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_auroc_equals_scikit_learns_with_ties(generated: np.ndarray, real: np.ndarray) -> None:
    labels = np.r_[np.ones(len(generated)), np.zeros(len(real))]
    assert auroc(generated, real) == pytest.approx(roc_auc_score(labels, np.r_[generated, real]), abs=1e-12)


def test_auroc_is_one_when_generated_images_score_higher() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0.0


def test_the_interval_contains_the_point_narrows_with_more_images_and_repeats() -> None:
    random = np.random.default_rng(1)
    generated, real = random.normal(1, 1, 400), random.normal(0, 1, 400)
    low, high = auroc_interval(generated, real, draws=300)
    assert 0 < low < auroc(generated, real) < high < 1
    assert auroc_interval(generated, real, draws=300) == (low, high)
    few_low, few_high = auroc_interval(generated[:40], real[:40], draws=300)
    assert few_high - few_low > 2 * (high - low)
    narrow_low, narrow_high = auroc_interval(generated, real, level=0.5, draws=300)
    assert low < narrow_low < narrow_high < high


def test_the_interval_covers_the_true_auroc_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    truth = 0.76025  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    hits = 0
    for _ in range(100):
        low, high = auroc_interval(random.normal(1, 1, 60), random.normal(0, 1, 60), level=0.9, draws=150)
        hits += low <= truth <= high
    assert 80 <= hits <= 98  # binomial(100, .9) lies in it with probability .998


def test_tpr_at_fpr_of_a_hand_case() -> None:
    real = np.arange(10.0)
    generated = np.array([5.0, 8.5, 9.0, 9.5])
    assert tpr_at_fpr(generated, real, 0.0) == 0.25  # above 9
    assert tpr_at_fpr(generated, real, 0.1) == 0.75  # above 8
    assert tpr_at_fpr(generated, real, 0.19) == 0.75  # still one real image
    assert tpr_at_fpr(generated, real, 0.5) == 1.0  # above 4


@settings(deadline=None)
@given(SCORES, SCORES, st.floats(0, 0.999))
def test_no_lower_line_than_the_one_of_tpr_at_fpr_keeps_the_budget(generated: np.ndarray, real: np.ndarray, fpr: float) -> None:
    lines = [line for line in np.r_[-np.inf, np.unique(real)] if (real > line).sum() <= fpr * len(real) + 1e-9]
    assert tpr_at_fpr(generated, real, fpr) == (generated > min(lines)).mean()


@pytest.mark.parametrize("fpr", [-0.01, 1.0, float("nan")])
def test_a_rate_outside_its_range_is_refused(fpr: float) -> None:
    with pytest.raises(ValueError, match=r"fpr must lie in \[0, 1\)"):
        tpr_at_fpr(np.ones(3), np.ones(3), fpr)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0)])
def test_an_empty_class_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"got {n} generated and {m} real"):
        auroc(np.ones(n), np.ones(m))
    with pytest.raises(ValueError, match=f"got {n} generated and {m} real"):
        tpr_at_fpr(np.ones(n), np.ones(m), 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    for pair in ((np.array([value]), np.ones(2)), (np.ones(2), np.array([value]))):
        with pytest.raises(ValueError, match="not finite"):
            auroc(*pair)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_average_precision_against_scikit_learn(generated: np.ndarray, real: np.ndarray) -> None:
    labels = np.r_[np.ones(len(generated)), np.zeros(len(real))]
    expected = average_precision_score(labels, np.r_[generated, real])
    assert average_precision(generated, real) == pytest.approx(expected, abs=1e-12)


def test_average_precision_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="both classes"):
        average_precision(np.array([]), np.array([1.0]))
    with pytest.raises(ValueError, match="not finite"):
        average_precision(np.array([np.nan]), np.array([1.0]))
