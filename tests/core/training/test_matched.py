"""Content-matched pairs: reported apart, with intervals, and nothing else in them."""

import numpy as np
import pytest

from mdmf_core.training.figures import auroc
from mdmf_core.training.matched import MEAN, matched_markdown, matched_pairs

RANDOM = np.random.default_rng(0)
MADE = np.repeat([True, False, True, False, True], [30, 40, 20, 25, 10])
PAIRS = ["faces"] * 70 + ["horses"] * 45 + [None] * 5 + ["lonely"] * 5
SCORES = {"mdmf": RANDOM.normal(0, 1, 125) + 2.0 * MADE, "probe": RANDOM.normal(0, 1, 125)}


def test_every_pair_of_both_classes_and_the_mean_for_every_method():
    found = matched_pairs(SCORES, MADE, PAIRS)
    assert [(f.method, f.pair) for f in found] == [
        ("mdmf", "faces"), ("probe", "faces"), ("mdmf", "horses"), ("probe", "horses"), ("mdmf", MEAN), ("probe", MEAN),
    ]  # fmt: skip
    faces = found[0]
    assert (faces.generated, faces.real) == (30, 40)
    assert faces.auroc == auroc(SCORES["mdmf"][:30], SCORES["mdmf"][30:70])
    assert all(f.low < f.auroc < f.high for f in found)
    mean = found[4]
    assert mean.auroc == pytest.approx((found[0].auroc + found[2].auroc) / 2)
    assert (mean.generated, mean.real) == (50, 65)
    assert mean.high - mean.low < max(f.high - f.low for f in (found[0], found[2]))


def test_a_set_without_pairs_has_no_such_figure():
    assert matched_pairs(SCORES, MADE, [None] * 125) == []
    assert matched_pairs(SCORES, MADE, [None] * 120 + ["lonely"] * 5) == []


def test_the_table_has_a_line_a_method_and_a_column_a_pair():
    lines = matched_markdown(matched_pairs(SCORES, MADE, PAIRS)).splitlines()
    assert lines[0] == f"| | faces (30 / 40) | horses (20 / 25) | {MEAN} (50 / 65) |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| mdmf", "| probe"]
