"""Conformal p-values, and what a calibration is checked against."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmf_core.banks.bank import Bank, BankMember, Slice
from mdmf_core.banks.calibration import (
    Calibration,
    CalibrationSlice,
    budget,
    calibration_from_file,
    require_disjoint,
    require_match,
)
from mdmf_core.banks.domains import Support
from mdmf_core.errors import ArtifactError
from mdmf_core.records import ImageShape

SUPPORT = Support(side_min=200, side_max=1000, short_max=900, quality_min=70, quality_max=100, lossless=False)


def part(scores: list[float]) -> CalibrationSlice:
    return CalibrationSlice("photo", tuple(scores), SUPPORT, ("1" * 64, "2" * 64))


def calibration(scores: list[float], scorer_id: str = "a" * 64, bank_id: str = "b" * 64) -> Calibration:
    return Calibration(scorer_id, bank_id, (part(scores),))


def bank(scorer_id: str = "a" * 64) -> Bank:
    members = (BankMember("s", "k", "1" * 64), BankMember("s", "l", "3" * 64))
    points = Slice("photo", torch.eye(2), torch.tensor([0.5, 0.5], dtype=torch.float64), 0.0, 2, 2, 1.0)
    return Bank("photos", scorer_id, (points,), 1.0, members)


def test_p_values_of_a_hand_case_with_ties() -> None:
    made = part([0.1, 0.2, 0.2, 0.4])
    # (1 + number at or above) / 5
    got = made.p_values(np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]))
    np.testing.assert_allclose(got, [1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2], rtol=0, atol=1e-15)


@settings(deadline=None)
@given(
    st.lists(st.floats(-5, 5).map(lambda v: round(v, 1)), min_size=1, max_size=40),
    st.lists(st.floats(-6, 6).map(lambda v: round(v, 1)), min_size=1, max_size=40),
)
def test_p_values_equal_their_definition_fall_with_the_score_and_are_never_zero(reals: list[float], asked: list[float]) -> None:
    made = part(sorted(reals))
    got = made.p_values(np.array(asked))
    expected = [(1 + sum(real >= score for real in reals)) / (len(reals) + 1) for score in asked]
    np.testing.assert_allclose(got, expected, rtol=1e-15)
    assert got.min() >= made.smallest_budget > 0
    assert got.max() <= 1
    assert (np.diff(got[np.argsort(asked)]) <= 0).all()


def test_the_smallest_budget_is_the_p_value_of_an_image_above_every_real_one() -> None:
    made = part([float(i) for i in range(99)])
    assert made.smallest_budget == 0.01 == made.p_values(np.array([1e9]))[0]


def test_p_values_are_uniform_when_the_image_is_exchangeable_with_the_real_ones() -> None:
    random = np.random.default_rng(0)
    n, draws = 19, 8000
    scores = random.normal(size=(draws, n + 1))
    p = np.array([part(sorted(row[:n].tolist())).p_values(row[n:])[0] for row in scores])
    counts = np.bincount(np.rint(p * (n + 1)).astype(int), minlength=n + 2)[1:]
    expected = draws / (n + 1)
    assert counts.sum() == draws
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 43.8  # the 99.9 % point at 19 degrees of freedom; without the +1 one bin is empty and it exceeds 400


def test_a_score_that_is_not_a_number_gets_no_p_value_that_would_flag_it() -> None:
    try:
        got = part([0.1, 0.2, 0.3]).p_values(np.array([np.nan]))
    except ValueError:
        return
    assert not got[0] < 1


@pytest.mark.parametrize("scores", [[], [0.1, float("nan")], [float("-inf"), 0.1]])
def test_a_calibration_without_finite_scores_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one real image, and finite scores"):
        part(scores)


def test_unsorted_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        part([0.2, 0.1])


@pytest.mark.parametrize(
    ("width", "height", "quality", "covered"),
    [
        (200, 1000, 70, True),
        (1000, 200, 100, True),
        (199, 1000, 70, False),
        (1000, 199, 70, False),
        (200, 1001, 70, False),
        (1001, 200, 70, False),
        (200, 1000, 69, False),
        (900, 1000, 90, True),
        (901, 1000, 90, False),
        (500, 500, None, False),
    ],
)
def test_support_ends_exactly_at_its_edges(width: int, height: int, quality: int | None, covered: bool) -> None:
    assert SUPPORT.covers(ImageShape(width, height, quality, None)) is covered


def test_lossless_images_are_covered_only_when_lossless_ones_were_calibrated() -> None:
    assert replace(SUPPORT, lossless=True).covers(ImageShape(500, 500, None, None))
    assert not replace(SUPPORT, lossless=True).covers(ImageShape(199, 500, None, None))


def test_a_calibration_survives_its_file_unchanged() -> None:
    made = calibration([0.1 + 0.2, 1 / 3, 1.0])
    read = calibration_from_file(made.file())
    assert read == made
    assert read.calibration_id == made.calibration_id


@pytest.mark.parametrize(
    "change",
    [
        {"slices": [{"scores": [0.1, 0.25]}]},
        {"slices": [{"scores": [0.1]}]},
        {"slices": [{"domain": "art"}]},
        {"scorer_id": "c" * 64},
        {"bank_id": "c" * 64},
        {"slices": [{"sha256s": []}]},
        {"slices": [{"support": asdict(SUPPORT) | {"lossless": True}}]},
        {"slices": [{"support": asdict(SUPPORT) | {"resized": [True]}}]},
        {"calibration_id": "c" * 64},
    ],
    ids=str,
)
def test_a_tampered_calibration_is_refused_with_both_digests(change: dict[str, object]) -> None:
    made = calibration([0.1, 0.2])
    record = json.loads(made.file())
    if "slices" in change:
        change = {"slices": [record["slices"][0] | change["slices"][0]]}
    record |= change
    stated = record["calibration_id"]
    with pytest.raises(ArtifactError, match=rf"digests to [0-9a-f]{{64}}, its card says {stated}"):
        calibration_from_file(json.dumps(record).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b"\xff", b'{"scores": "x"}', json.dumps(asdict(calibration([0.1]))).encode()],
)
def test_a_file_that_is_no_calibration_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a calibration"):
        calibration_from_file(data)


def test_scores_that_are_not_numbers_or_not_sorted_are_refused() -> None:
    for scores in (["a"], [None], [0.2, 0.1], []):
        record = json.loads(calibration([0.1]).file())
        record["slices"][0]["scores"] = scores
        with pytest.raises(ArtifactError, match="not a calibration"):
            calibration_from_file(json.dumps(record).encode())


def test_a_bank_of_another_scorer_is_refused_with_both_digests_and_what_to_do() -> None:
    with pytest.raises(ArtifactError) as caught:
        require_match("f" * 64, bank(), calibration([0.1]))
    for part in ("f" * 64, "a" * 64, "Build a bank with this scorer"):
        assert part in str(caught.value)


@pytest.mark.parametrize("other", [{"scorer_id": "e" * 64}, {"bank_id": "e" * 64}])
def test_a_calibration_of_another_scorer_or_bank_is_refused_with_all_digests(other: dict[str, str]) -> None:
    made = calibration([0.1], **({"bank_id": bank().bank_id} | other))
    with pytest.raises(ArtifactError) as caught:
        require_match("a" * 64, bank(), made)
    for part in ("a" * 64, bank().bank_id, "e" * 64):
        assert part in str(caught.value)


def test_a_matching_trio_passes() -> None:
    require_match("a" * 64, bank(), calibration([0.1], bank_id=bank().bank_id))


def test_a_calibration_image_that_is_in_the_bank_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match=f"1 calibration images are also in bank 'photos', first {'3' * 64}"):
        require_disjoint(bank(), ("3" * 64, "7" * 64))
    require_disjoint(bank(), ("7" * 64,))


def test_slices_that_are_not_the_banks_are_refused() -> None:
    made = Calibration("a" * 64, bank().bank_id, (part([0.1]), part([0.2])))
    with pytest.raises(ArtifactError, match=r"has the slices \['photo'\], the calibration \['photo', 'photo'\]"):
        require_match("a" * 64, bank(), made)


@pytest.mark.parametrize(
    ("fpr", "n", "low", "high"),
    [(0.05, 1000, 0.039, 0.062), (0.01, 1000, 0.0054, 0.0157), (0.01, 5000, 0.0078, 0.0124)],  # shared method notes, section 4
)
def test_the_range_of_the_realised_rate(fpr: float, n: int, low: float, high: float) -> None:
    found = budget(n, fpr)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_the_range_and_the_sure_line_hold_in_simulation() -> None:
    random = np.random.default_rng(0)
    n, fpr = 400, 0.05
    found = budget(n, fpr)
    calibrations = np.sort(random.uniform(size=(4000, n)), axis=1)
    # The rule flags what lies above all but rank - 1 calibration scores; of uniform reals, exactly 1 - that score.
    realised = 1 - calibrations[:, n - found.rank]
    inside = ((realised >= found.low) & (realised <= found.high)).mean()
    assert 0.88 < inside < 0.92
    assert found.sure_line is not None
    rank = round(found.sure_line * (n + 1))
    kept = (1 - calibrations[:, n - rank] <= fpr).mean()
    assert 0.945 < kept < 0.99
    assert (1 - calibrations[:, n - rank - 1] <= fpr).mean() < 0.955  # one rank more would not keep it


def test_budgets_that_cannot_be_kept_say_what_they_take() -> None:
    assert budget(99, 0.01).rank == 1
    assert budget(99, 0.01).sure_line is None
    with pytest.raises(ValueError, match=r"budget 0\.01 cannot be kept by 98 calibration images; it takes 99"):
        budget(98, 0.01)
    for wrong in (0.0, 1.0, -0.1, 2.0):
        with pytest.raises(ValueError, match="lies between 0 and 1"):
            budget(98, wrong)
