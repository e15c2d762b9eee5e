"""From measured rates to the limit and to advice, by figures that can be checked by hand."""

from dataclasses import replace

import pytest

from mdmf_cli.speed_advice import changes
from mdmf_core.scoring.slowest_stage import Rates, limit_of

# A GPU host on which no stage is far from the others: 200 MB/s / 0.1 MB = 2,000 images/s read.
GPU = Rates(16, True, 1e5, 200.0, 150.0, 1800.0, 16, {1: 200.0, 16: 1400.0, 64: 1500.0}, 9000.0, 50_000.0)


def test_on_a_gpu_the_slowest_stage_sets_the_pace() -> None:
    found = limit_of(GPU)
    assert found.stage == "backbone"
    assert found.images_per_second == 1500
    assert found.rates["read"] == pytest.approx(2000)
    assert changes(found, GPU)[0] == "batch_images: 16 gives 1400 of at most 1500 images/s"
    assert "decode comes next" not in changes(found, GPU)[-1]


@pytest.mark.parametrize(
    ("change", "limit", "word"),
    [
        ({"read": 20.0}, "read", "storage gives 20 MB/s"),
        ({"decode_all": 300.0, "decode_one": 25.0}, "decode", "more cores"),
        ({"decode_all": 300.0, "decoders": 4}, "decode", "decode_threads: 16 instead of 4"),
        ({"score": 100.0}, "score", "a smaller bank"),
        ({"land": 90.0}, "land", "shards_per_task"),
    ],
)
def test_each_stage_can_be_the_limit_and_has_its_own_advice(change: dict[str, object], limit: str, word: str) -> None:
    rates = replace(GPU, **change)
    found = limit_of(rates)
    assert found.stage == limit
    assert word in changes(found, rates)[0]


def test_on_a_cpu_the_stages_share_the_cores() -> None:
    cpu = Rates(2, False, 1e5, 500.0, 400.0, 400.0, 1, {1: 30.0, 16: 40.0}, 1000.0, 50_000.0)
    found = limit_of(cpu)
    assert found.stage == "backbone"
    # 1/800 for decoding on both cores, 1/40 and 1/1000
    assert found.images_per_second == pytest.approx(1 / (1 / 800 + 1 / 40 + 1 / 1000))
    assert "a GPU" in changes(found, cpu)[1]
    slow = limit_of(replace(cpu, read=1.0))
    assert (slow.stage, slow.images_per_second) == ("read", pytest.approx(10))


def test_a_limit_that_is_followed_closely_says_by_what() -> None:
    rates = replace(GPU, decode_all=1600.0)
    assert limit_of(rates).next == ("decode", pytest.approx(1600 / 1500))
    assert "decode comes next: it is only 1.1 times as fast" in changes(limit_of(rates), rates)[-1]


def test_a_stage_that_did_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rates must be above 0, got land 0"):
        limit_of(replace(GPU, land=0.0))
    with pytest.raises(ValueError, match="backbone 0"):
        limit_of(replace(GPU, backbone={}))
