"""What Prefect's own pages show of a run."""

import json

import pytest
from fabricate import ROOT, encoded, write_shard
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.events.schemas.automations import AutomationCore
from yaml import safe_load

from mdmf_core.errors import MdmfError


def artifacts_of(run: str) -> dict[str, object]:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run]}}}).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_a_run_shows_its_source_shards_exclusions_and_report(curate, tmp_path):
    folder = tmp_path / "laion"
    folder.mkdir()
    for number in range(3):
        write_shard(
            folder / f"0000{number}.tar", range(10 * number, 10 * number + 3), {"x.html": b"<html>", "y.jpg": encoded(7)[:900]}
        )
    (folder / "00003.tar").write_bytes(b"no tar at all" * 100)
    (folder / "00003_stats.json").write_text('{"successes": 1}')
    result = curate(folder / "{00000..00003}.tar", shards_per_task=2, max_shards=9)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(result.run_id)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [result.run_id]}))
    assert run.name == "curate laion/{00000..00003}.tar, 9 shards at most: 4 of 4 shards"
    assert {"mdmf", "scorer:timm:test_vit"} < set(run.tags)
    assert any(tag.startswith("bank:tiny-") for tag in run.tags)
    assert {"score laion/00000.tar .. 00001.tar (2)", "land laion/00002.tar .. 00003.tar (2)", "artifacts"} < {
        t.name for t in tasks
    }
    shown = artifacts_of(result.run_id)
    assert "15 members = 9 scored + 6 excluded" in shown["curate-accounting"]
    shards = json.loads(shown["curate-shards"])
    assert (shards[0]["shard"], shards[0]["state"], len(shards)) == ("laion/00003.tar", "failed", 4)
    assert "corrupt" in shards[0]["reason"]
    assert sum(row["members"] for row in shards) == 15
    exclusions = json.loads(shown["curate-exclusions"])
    assert {row["reason"]: row["members"] for row in exclusions} == {"not_an_image": 3, "truncated": 3}
    assert float(shown["curate-progress"]) == 100
    assert result.report in shown["curate-report"]


def test_a_failure_names_the_shard_and_the_reason(curate, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("tasks.scoring.score_shard._write_part", broken)
    monkeypatch.setattr("tasks.runs.steps.score_group.retries", 0)
    with pytest.raises(MdmfError, match=r"00000\.tar: .*RuntimeError: the device is gone"):
        curate(write_shard(tmp_path / "00000.tar", range(2)))


def test_the_automations_of_the_page_are_ones_that_prefect_takes():
    text = (ROOT / "docs" / "notifications.md").read_text().split("```yaml\n")[1].split("```")[0]
    found = [AutomationCore.model_validate(automation) for automation in safe_load(text)["automations"]]
    assert [automation.actions[0].type for automation in found] == ["send-notification"] * 2
    assert found[1].trigger.expect == {"mdmf.bank.alarm"}
