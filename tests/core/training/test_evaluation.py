"""Figures per generator and the controls that void a run."""

import numpy as np
import pytest

from mdmf_core.training.evaluation import figure, markdown, no_overlap, per_generator, same_scores, shuffled_labels, table

RANDOM = np.random.default_rng(0)
REAL, A, B = RANDOM.normal(0, 1, 200), RANDOM.normal(3, 1, 60), RANDOM.normal(0, 1, 40)
SCORES = np.concatenate([REAL, A, B])
MADE = [False] * 200 + [True] * 100
GROUPS = ["web"] * 200 + ["a"] * 60 + ["b"] * 40
DOMAINS = ["photo"] * 150 + ["art"] * 50 + ["photo"] * 60 + ["art"] * 40


def test_a_table_has_every_generator_then_all_then_the_domains():
    rows = table(SCORES, MADE, GROUPS, DOMAINS)
    assert [row.name for row in rows] == ["a", "b", "all generators", "within domain art", "within domain photo"]
    a, b, everything, art, _ = rows
    assert (a.generated, a.real, everything.generated) == (60, 200, 100)
    assert a.auroc > 0.95 > 0.65 > b.auroc
    assert a.low < a.auroc < a.high
    assert everything.prevalence == pytest.approx(1 / 3)
    assert (art.generated, art.real) == (40, 50)
    assert set(per_generator(rows)) == {"a", "b"}


def test_one_domain_makes_no_row_of_its_own():
    assert [row.name for row in table(SCORES, MADE, GROUPS, ["photo"] * 300)][-1] == "all generators"


def test_a_class_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="both classes"):
        figure("a", A, np.array([]))


def test_png_that_scores_otherwise_breaks_its_control():
    assert same_scores("png", REAL, REAL).holds
    assert not same_scores("png", REAL + 1, REAL).holds


def test_shuffled_labels_hold_for_any_scores_and_break_when_scores_know_the_shuffle():
    assert shuffled_labels(SCORES, MADE).holds
    leaked = np.random.default_rng(0).permutation(np.array(MADE)).astype(float)
    assert not shuffled_labels(leaked, MADE).holds


def test_a_hostile_name_stays_in_its_cell():
    rows = markdown([figure("a|b\n<script>", A, REAL)]).splitlines()
    assert len(rows) == 3
    assert rows[2].startswith("| a\\|b &lt;script> | 60 | 200 |")


def test_overlap_is_counted():
    control = no_overlap({"x", "y"}, {"y", "z"})
    assert not control.holds
    assert control.value == 1
    assert no_overlap({"x"}, {"z"}).holds
