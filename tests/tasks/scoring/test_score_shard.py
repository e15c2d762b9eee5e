"""A shard through the stages gives what its images give one by one; whatever breaks in a stage, nothing is left behind."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from fabricate import encoded, write_shard
from torch import nn

from mdmf_core.errors import ShardUnfinished, SourceError
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.records import ImageShape
from mdmf_core.signatures.passes import Passes
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.scoring import score_shard as extract
from tasks.scoring.decoded_members import DecodedMember, batches, prepare
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.loading import load_setup
from tasks.scoring.scoring_setup import ScoringSetup, sizes

STAGES = ("read", "backbone", "score")


@pytest.fixture(scope="module")
def default() -> ScoringSetup:
    """The bundled scorer in batches of two images."""
    return load_setup("default", "default", "cpu", 2, 2, None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Images of 1 to 16 crops, and members that are none."""
    extra = {f"a{width}.png": encoded(width, "PNG", width=width, height=70) for width in (64, 70, 200, 400)}
    return write_shard(
        tmp_path / "00000.tar", range(3), {"page.jpg": b"<html>"} | extra | {"small.png": encoded(9, "PNG", 60, 60)}
    )


def score(source: Path, setup: ScoringSetup, folder: Path) -> object:
    (shard,) = list_shards(str(source), 1000)
    return extract.score_shard(shard, setup, str(folder), "run", None, lambda members: None)


def left_behind() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in STAGES]


def test_a_shard_gives_what_its_images_give_alone(default, source, tmp_path):
    outcome = score(source, default, tmp_path / "parts")
    assert (outcome.state, outcome.members, outcome.scored, outcome.excluded) == ("complete", 9, 7, 2)
    rows = pq.read_table(outcome.part).to_pylist()
    (shard,) = list_shards(str(source), 1000)
    with open_shard(shard, ImageLimits().max_bytes) as reader:
        members = list(reader)
    assert [row["key"] for row in rows] == [member.key for member in members]
    assert [row["reason"] for row in rows] == [None] * 3 + ["not_an_image"] + [None] * 4 + ["too_small"]
    assert [row["bytes"] for row in rows] == [len(member.data) for member in members]
    for row, member in zip(rows, members, strict=True):
        if row["reason"] is None:
            image = decode(member.data, ImageLimits())
            # At the file's own resolution: a decoder that scales down would leave other traces, and another score.
            found = default.scorer.extract([default.scorer.crops.cut(image.pixels)])
            shape = ImageShape(image.width, image.height, image.jpeg_quality, None)
            (alone,) = default.scorer.score(found, [shape], default.bank, default.calibration)
            assert (row["patches"], row["p_value"], row["in_support"]) == (alone.patches, alone.p_value, alone.in_support)
            assert abs(row["score"] - alone.score) < 1e-5  # the stated tolerance between batches
    assert left_behind() == []


def test_batches_hold_no_more_crops_than_asked_for_and_every_member_once(default, source):
    (shard,) = list_shards(str(source), 1000)
    with DecodePool(1) as pool, open_shard(shard, ImageLimits().max_bytes) as reader:
        prepared = [prepare(member, default.scorer.crops, pool) for member in reader]
    for most in (1, 5, 16, 33, 1000):
        groups = list(batches(prepared, most))
        assert [item for group in groups for item in group] == prepared
        held = [[len(item.crops) for item in group if item.crops is not None] for group in groups]
        assert all(sum(crops) <= most or len(crops) == 1 for crops in held)
    assert len(list(batches(prepared, 1000))) == 1
    assert all(item.member.data == b"" for item in prepared)
    none = [DecodedMember(prepared[3].member, "", None, None, "not_an_image")] * 1200
    assert [len(group) for group in batches(none, 16)] == [512, 512, 176]


@pytest.mark.parametrize("error", [RuntimeError("device lost"), KeyError("x")])
def test_an_error_of_the_backbone_ends_the_shard_and_leaves_nothing(default, source, tmp_path, error):
    class Lost(nn.Module):
        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            raise error

    setup = replace(default, scorer=replace(default.scorer, backbone=Lost()))
    with pytest.raises(type(error), match=str(error.args[0])):
        score(source, setup, tmp_path / "parts")
    assert left_behind() == []
    assert [name for _, _, names in os.walk(tmp_path / "parts") for name in names] == []


def test_an_error_of_who_writes_ends_all_stages(default, source, tmp_path):
    def full(_: int) -> None:
        raise OSError("disk is full")

    (shard,) = list_shards(str(source), 1000)
    with pytest.raises(OSError, match="disk is full"):
        extract.score_shard(shard, default, str(tmp_path / "parts"), "run", None, full)
    assert left_behind() == []


@pytest.mark.parametrize(
    ("error", "reason"), [(ShardUnfinished("cut"), "unfinished: cut"), (SourceError("gone"), "storage: gone")]
)
def test_an_error_of_the_reader_defers_the_shard(default, source, tmp_path, monkeypatch, error, reason):
    class Broken:
        def __enter__(self) -> object:
            return self

        def __exit__(self, *_: object) -> None: ...

        def __iter__(self) -> object:
            (shard,) = list_shards(str(source), 1000)
            with open_shard(shard, ImageLimits().max_bytes) as reader:
                yield from list(reader)[:4]
            raise error

    monkeypatch.setattr(extract, "open_shard", lambda *_: Broken())
    outcome = score(source, default, tmp_path / "parts")
    assert (outcome.state, outcome.reason, outcome.part) == ("deferred", reason, None)
    assert left_behind() == []


def test_memory_that_runs_out_costs_no_row(default, source, tmp_path):
    class Small(nn.Module):
        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            if len(crops) > 3:
                raise torch.OutOfMemoryError("no room")
            return default.scorer.backbone(crops)

    setup = replace(default, scorer=replace(default.scorer, backbone=Small()), passes=Passes(32))
    outcome = score(source, setup, tmp_path / "small")
    whole = score(source, default, tmp_path / "whole")
    assert (outcome.members, outcome.scored) == (whole.members, whole.scored)
    pairs = zip(*(pq.read_table(one.part, columns=["score"])["score"].to_pylist() for one in (outcome, whole)), strict=True)
    assert all(a is b is None or abs(a - b) < 1e-5 for a, b in pairs)
    assert setup.passes.crops <= 3


def test_sizes_follow_crops_and_device(default):
    plan = default.scorer.crops
    assert sizes(plan, 2, False)[0] == default.passes.crops == 32
    batch, passes = sizes(plan, 0, False)
    assert (batch, passes.crops) == (424, 106)  # 1.25 MiB at once, four of them in a batch
    batch, passes = sizes(replace(plan, size=224, most=1), 0, False)
    assert (batch, passes.crops) == (8, 8)
    batch, passes = sizes(replace(plan, size=224), 0, True)
    assert (batch, passes.crops) == (256, 64)
    assert sizes(replace(plan, size=1024, most=40), 0, True)[0] == 40  # one image at least
