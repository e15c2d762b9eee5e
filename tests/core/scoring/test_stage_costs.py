"""Costs of stages add up, whatever threads they come from, and say which stage is the limit."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_core.scoring.stage_costs import STAGES, Cost, Depth, StageCosts
from tasks.scoring.stage_clock import Stages

costs = st.builds(Cost, st.integers(0, 1000).map(float), st.integers(0, 1000), st.integers(0, 10**12))
depths = st.builds(Depth, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
some = st.builds(
    StageCosts,
    st.integers(0, 1000).map(float),
    st.dictionaries(st.sampled_from(STAGES), costs),
    st.dictionaries(st.sampled_from(["read", "decoded"]), depths),
)


@given(some, some, some)
def test_adding_up_depends_on_no_order(a: StageCosts, b: StageCosts, c: StageCosts) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + StageCosts() == a


@given(some)
def test_a_record_gives_the_same_costs_back(found: StageCosts) -> None:
    assert StageCosts.from_record(found.record()) == found


def test_rates_shares_and_the_limit_of_a_case_counted_by_hand() -> None:
    found = StageCosts(20.0, {"read": Cost(4.0, 800, 4 * 10**8), "decode": Cost(30.0, 800), "backbone": Cost(10.0, 800)})
    assert found.megabytes_per_second == pytest.approx(100)
    assert found.stages["decode"].rate == pytest.approx(800 / 30)
    assert found.busy("backbone", "read") == pytest.approx(0.7)
    # two children decode 15 s each, four 7.5 s each
    assert found.limit(2) == "decode"
    assert found.limit(4) == "backbone"
    assert found.sentence(2).endswith("backbone 80 images/s and busy 50 %; limit: decode at 75 %")


def test_nothing_measured_has_no_rate_and_no_limit() -> None:
    assert Cost(0.0, 5).rate is None
    assert Cost(5.0, 0).rate is None
    assert StageCosts().limit(1) is None
    assert StageCosts().sentence(1) == "nothing was measured"
    assert StageCosts().megabytes_per_second is None
    assert StageCosts(5.0, {"land": Cost(9.0, 9)}).limit(1) is None  # runs beside the next group


def test_threads_lose_nothing() -> None:
    stages = Stages()

    def work(number: int) -> None:
        for _ in range(1000):
            stages.add("decode", 0.5, 1, 2)
            stages.depth("decoded", number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = stages.snapshot()
    assert found.stages["decode"] == Cost(4000.0, 8000, 16000)
    assert found.queues["decoded"] == Depth(28_000, 8000, 7)
    assert found.queues["decoded"].mean == 3.5


def test_a_block_that_fails_is_timed_all_the_same() -> None:
    stages = Stages()
    with pytest.raises(KeyError), stages.timed("read", 3, 7):
        raise KeyError
    cost = stages.snapshot().stages["read"]
    assert (cost.items, cost.bytes) == (3, 7)
    assert cost.seconds > 0
