"""Backbones side by side keep to a core each, and memory that an operation gave back serves the next one."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from fabricate import write_shard
from torch import nn

from tasks.collections.listing import list_shards
from tasks.scoring import score_shard as extract
from tasks.scoring.cpu_threads import model_threads
from tasks.scoring.loading import load_setup

# Eight tensors of 8 MiB, made and dropped again and again, as a backbone's are; how many pages the system handed out.
_FAULTS = """
import resource, sys, torch
from tasks.scoring.cpu_threads import keep_freed_memory
keep_freed_memory()
a = torch.ones(2 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [a + 1 for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_each_keeps_to_one_core_and_all_other_threads_to_what_they_had():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        met = threading.Barrier(2, timeout=30)

        def look(_: int) -> int:
            met.wait()  # so that one thread does not do both
            return torch.get_num_threads()

        assert list(model_threads(2).map(look, range(2))) == [1, 1]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    assert model_threads(2) is model_threads(2)


def test_a_single_one_has_all_cores():
    assert model_threads(1).submit(torch.get_num_threads).result() == torch.get_num_threads()


def test_batches_are_in_the_backbone_at_the_same_time_and_their_rows_in_order(tmp_path):
    setup = load_setup("default", "default", "cpu", 1, 1, None)
    met = threading.Barrier(2, timeout=60)  # breaks when one batch waits for another's end

    class Meeting(nn.Module):
        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            met.wait()
            return setup.scorer.backbone(crops)

    together = replace(setup, backbones=2, scorer=replace(setup.scorer, backbone=Meeting()))
    (shard,) = list_shards(str(write_shard(tmp_path / "00000.tar", range(6))), 1000)
    outcomes = [
        extract.score_shard(shard, each, str(tmp_path / name), "run", None, lambda done: None)
        for name, each in (("together", together), ("alone", replace(setup, backbones=1)))
    ]
    found, expected = (pq.read_table(outcome.part).to_pydict() for outcome in outcomes)
    assert found["key"] == expected["key"] == sorted(expected["key"])
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_not_asked_of_the_system_for_every_operation():
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 8 * 2048  # pages of three rounds of twenty, of which the first has to ask
