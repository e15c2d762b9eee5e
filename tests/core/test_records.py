"""The reasons of exclusion: what each implies, and that every text and default that lists them lists these."""

import json
import pickle
import re
from inspect import signature

import pytest
import yaml
from fabricate import ROOT
from typer.testing import CliRunner

from mdmf_core.records import ExclusionReason

PASSING = ["storage", "decoder_crashed", "decoder_timeout"]


def test_a_reason_is_its_word_everywhere():
    reason = ExclusionReason("decoder_crashed")
    assert reason is ExclusionReason.DECODER_CRASHED
    assert (str(reason), f"{reason}", json.dumps(reason)) == ("decoder_crashed", "decoder_crashed", '"decoder_crashed"')
    assert pickle.loads(pickle.dumps(reason)) is reason
    with pytest.raises(ValueError, match="no such"):
        ExclusionReason("no such")


def test_the_traits_of_the_reasons():
    assert [str(reason) for reason in ExclusionReason if reason.passes] == PASSING
    assert [str(reason) for reason in ExclusionReason if reason.by_reader] == ["duplicate_key", "no_image", "not_a_file"]
    assert [str(reason) for reason in ExclusionReason if not reason.decode_again] == ["decoder_crashed", "decoder_timeout"]
    assert not [reason for reason in ExclusionReason if reason.passes and reason.by_reader]
    assert len({reason.meaning for reason in ExclusionReason} - {""}) == len(ExclusionReason)


def test_the_pages_list_every_reason():
    (row,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| exclusion |")]
    assert re.findall("`([a-z_]+)`", row) == [str(reason) for reason in ExclusionReason]
    reliability = (ROOT / "docs" / "reliability.md").read_text()
    assert [str(reason) for reason in ExclusionReason if f"`{reason}`" not in reliability] == []
    sentence = re.search(r"Reasons that may pass: (.*?), and of shards", reliability)[1]
    assert re.findall("`([a-z_]+)`", sentence) == PASSING


def test_a_retry_takes_the_passing_reasons_unless_told_otherwise():
    from flows.retry import retry
    from mdmf_cli.main import app

    assert list(signature(retry.fn).parameters["reasons"].default) == PASSING
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (scheduled,) = [entry for entry in deployments if entry["entrypoint"] == "flows.retry.retry"]
    assert scheduled["parameters"]["reasons"] == PASSING
    said = " ".join(CliRunner().invoke(app, ["retry", "--help"], env={"COLUMNS": "300"}).output.split())
    assert f"Of members: {', '.join(PASSING)}; of shards" in said
