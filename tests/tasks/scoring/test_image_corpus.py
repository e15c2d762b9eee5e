"""No file of the corpus ends in anything but an image or a documented exclusion."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus import PLAN, corpus, decoders, outcome, peak_bytes
from corpus_parts import DECODED
from fabricate import write_tar

from tasks.collections.listing import list_shards
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.loading import load_setup
from tasks.scoring.score_shard import score_shard

ENTRIES = 1000  # at least
PEAK = 256 * 2**20  # bytes; 63 MiB were seen


@pytest.fixture(scope="module")
def entries():
    return list(corpus())


def test_the_corpus_is_large_and_the_same_every_time(entries):
    assert len(entries) >= ENTRIES
    assert len({entry.name for entry in entries}) == len(entries)
    assert all(first.data == second.data for first, second in zip(entries, corpus(), strict=True))


def test_every_file_has_an_allowed_outcome_and_no_damaged_one_passes_as_whole(entries):
    wholes: dict[bytes, np.ndarray] = {}
    unexpected, others = [], set(decoders())
    with DecodePool(1) as pool:
        pool.decode(entries[0].data, PLAN)
        (child,) = set(decoders()) - others
        for entry in entries:
            found = pool.decode(entry.data, PLAN)
            if outcome(found) not in entry.allowed:
                unexpected.append((entry.family, entry.name, outcome(found), found.detail))
            if entry.same_as is not None and found.crops is not None:
                if entry.same_as not in wholes:
                    wholes[entry.same_as] = pool.decode(entry.same_as, PLAN).crops
                if not np.array_equal(found.crops, wholes[entry.same_as]):
                    unexpected.append((entry.family, entry.name, "other pixels", ""))
        assert set(decoders()) - others == {child}  # nothing crashed it
        assert peak_bytes(child) < PEAK
    assert unexpected == []


def test_a_shard_of_damaged_files_is_scored_to_its_end(entries, tiny_scorer, tiny_bank, tmp_path):
    some = entries[::8]
    setup = load_setup(tiny_scorer, tiny_bank, "cpu", 8, 2, None)
    (shard,) = list_shards(str(write_tar(tmp_path / "00000.tar", {entry.name: entry.data for entry in some})), 1000)
    scored = score_shard(shard, setup, str(tmp_path / "parts"), "run", None, lambda members: None)
    assert (scored.state, scored.members, scored.scored + scored.excluded) == ("complete", len(some), len(some))
    rows = pq.read_table(scored.part).to_pylist()
    assert [row["key"] for row in rows] == [entry.name.rpartition(".")[0] for entry in some]
    for row, entry in zip(rows, some, strict=True):
        assert (row["reason"] or DECODED) in entry.allowed, row
        assert (row["score"] is None) == (row["reason"] is not None)
