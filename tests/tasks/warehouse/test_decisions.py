"""What the macros decide and estimate, on rows whose truth is known."""

import uuid

import duckdb
import numpy as np
import pandas as pd
import pytest
from lakes import KINDS, place

from mdmf_core.banks.calibration import budget
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

IDS = [str(uuid.UUID(int=number)) for number in range(1, 6)]


@pytest.fixture(params=KINDS)
def corpus(request, tmp_path):
    """A function that fills a warehouse with p-values by domain, and gives a function to ask it."""

    def fill(rows: pd.DataFrame, calibrated: dict[str, int]):
        path = place(tmp_path, request.param)
        scorer, bank, calibration, shard, run = IDS
        with Warehouse.at(path).connect() as connection:
            migrate(connection)
            connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, now())", [scorer, bank, calibration])
            for domain, n in calibrated.items():
                connection.execute("INSERT INTO calibration_slices VALUES (?, ?, ?, ?)", [calibration, domain, n, 1 / (n + 1)])
                for fpr in (0.01, 0.05, 0.1):
                    if fpr * (n + 1) >= 1:
                        found = budget(n, fpr)
                        connection.execute(
                            "INSERT INTO calibration_budgets VALUES (?, ?, ?, ?, ?, ?)",
                            [calibration, domain, fpr, found.low, found.high, found.sure_line],
                        )
            connection.execute(
                "INSERT INTO shards SELECT ?, 'u', 'tar', 'd', 1, 'f', 'complete', NULL, ?, ?, 0, false, ?, ?, ?, ?, 1, "
                "now(), 0, NULL",
                [shard, len(rows), len(rows), scorer, bank, calibration, run],
            )
            connection.register("given", rows.assign(image_id=[str(uuid.UUID(int=100 + at)) for at in range(len(rows))]))
            connection.execute(
                "INSERT INTO images SELECT image_id, ?, image_id, '0', 'JPEG', 1, 1, 1, 1, 90, 0, NULL, NULL, NULL, NULL "
                "FROM given",
                [shard],
            )
            connection.execute(
                "INSERT INTO scores SELECT image_id, ?, ?, ?, ?, ?, 1 - p, 0, 0, 0, 0, 0, 1, p, domain, inside, now(), NULL "
                "FROM given",
                [shard, scorer, bank, calibration, run],
            )

        def ask(sql: str) -> pd.DataFrame:
            with Warehouse.at(path).connect(read_only=True) as connection:
                return connection.execute(sql).df()

        return ask

    return fill


def frame(p: list[float], domain: str = "photo", inside: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"p": p, "domain": domain, "inside": inside})


def test_every_image_is_flagged_kept_or_unsure(corpus):
    ask = corpus(
        pd.concat([frame([0.01, 0.05, 0.06, 0.9]), frame([0.05, 0.9], "art"), frame([0.001], inside=False)]),
        {"photo": 999, "art": 19},
    )
    for fpr in (0.01, 0.05, 0.5):
        counts = [ask(f"SELECT count(*) AS n FROM {name}({fpr})")["n"][0] for name in ("flagged", "kept", "unsure")]
        assert sum(counts) == 7
    assert len(ask("FROM flagged(0.05)")) == 3
    assert len(ask("FROM flagged(0.01)")) == 1  # art has too few images to be decided at 1 %
    assert len(ask("FROM unsure(0.01)")) == 3
    assert len(ask("FROM unsure()")) == 1


def test_budgets_that_no_slice_keeps_are_refused_with_what_they_take(corpus):
    ask = corpus(frame([0.5]), {"photo": 99, "art": 19})
    for name in ("flagged", "kept", "unsure"):
        with pytest.raises(duckdb.Error, match=r"99 real images and reaches down to 0\.01000; it would take 999"):
            ask(f"FROM {name}(0.001)")
        with pytest.raises(duckdb.Error, match="lies between 0 and 1"):
            ask(f"FROM {name}(1.5)")
    with pytest.raises(duckdb.Error, match="would take 299 real images"):
        ask("FROM flagged_surely(0.01)")


def test_the_sure_line_is_stricter_and_is_the_calibrations(corpus):
    ask = corpus(frame([(1 + at) / 1000 for at in range(999)]), {"photo": 999})
    line = budget(999, 0.05).sure_line
    assert len(ask("FROM flagged_surely(0.05)")) == round(line * 1000) < 50 == len(ask("FROM flagged(0.05)"))


def test_discoveries_are_those_of_benjamini_and_hochberg(corpus):
    random = np.random.default_rng(0)
    p = np.ceil(np.concatenate([random.beta(0.2, 4, 300), random.uniform(size=700)]) * 1000) / 1000
    ask = corpus(frame(p.tolist()), {"photo": 999})
    for rate in (0.01, 0.1, 0.3):
        ordered = np.sort(p)
        passed = np.flatnonzero(ordered <= rate * np.arange(1, 1001) / 1000)
        expected = passed.max() + 1 if len(passed) else 0
        assert len(ask(f"FROM discoveries({rate})")) == expected
    assert expected > 0


def test_prevalence_covers_the_truth_as_often_as_it_says(corpus):
    random = np.random.default_rng(1)
    n, images, share = 400, 600, 0.3
    parts = []
    for trial in range(200):
        calibration = np.sort(random.normal(size=n))
        made = int(share * images)
        scores = np.concatenate([random.normal(6, 1, made), random.normal(size=images - made)])
        p = (1 + n - np.searchsorted(calibration, scores, side="left")) / (n + 1)
        parts.append(frame(p.tolist(), f"t{trial}"))
    ask = corpus(pd.concat(parts), {f"t{trial}": n for trial in range(200)})
    found = ask("FROM prevalence()")
    assert abs(found["generated_share"].mean() - share) < 0.01
    covered = ((found["low"] <= share) & (found["high"] >= share)).mean()
    assert 0.82 < covered < 0.97
    assert len(ask("FROM prevalence('t7')")) == 1
    precision = ask("FROM expected_precision(0.05)")
    real_flagged = (1 - share) * images * 0.05
    assert precision["precision"].mean() == pytest.approx(1 - real_flagged / (share * images + real_flagged), abs=0.02)


def test_nothing_is_estimated_where_nothing_is_generated(corpus):
    ask = corpus(frame(np.linspace(0.01, 1, 100).tolist()), {"photo": 99})
    row = ask("FROM prevalence()").iloc[0]
    assert row["low"] <= row["generated_share"] <= 0.02 < row["high"]
    assert ask("FROM expected_precision(0.05)")["precision"][0] == pytest.approx(0, abs=0.1)
