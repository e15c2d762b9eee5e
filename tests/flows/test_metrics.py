"""What a run says of its stages: in its row, in its parts, and to Prometheus over HTTP."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from fabricate import outcome_of, write_shard
from prefect.settings import PREFECT_CLIENT_METRICS_ENABLED, PREFECT_CLIENT_METRICS_PORT, temporary_settings
from prefect.utilities import services

from mdmf import to_pandas as query
from mdmf_core.errors import MdmfError
from mdmf_core.scoring.stage_costs import StageCosts
from tasks.parts.outcome import costs_of
from tasks.parts.part_files import finished_part


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Prefect's metrics endpoint, switched on as a user does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with temporary_settings({PREFECT_CLIENT_METRICS_ENABLED: True, PREFECT_CLIENT_METRICS_PORT: port}):
        yield f"http://127.0.0.1:{port}/metrics"
        server, _ = services._metrics_server
        services.stop_client_metrics_server()
        server.server_close()  # Prefect leaves the socket to the garbage collector, which warns


def scraped(endpoint: str) -> dict[str, float]:
    with urllib.request.urlopen(endpoint, timeout=30) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(mdmf_\S+) (\S+)$", text, re.MULTILINE)}


def test_a_run_says_what_its_stages_cost_in_its_row_and_to_prometheus(curate, tmp_path, endpoint):
    source = write_shard(tmp_path / "00000.tar", range(12), {"bad.html": b"<html>"})
    before = {}
    result = curate(source)
    after = scraped(endpoint)
    again = curate(write_shard(tmp_path / "00001.tar", range(20, 25)))
    ((found,),) = query(result.warehouse, "SELECT metrics FROM runs WHERE run_id = ?", [result.run_id]).to_numpy()
    costs = StageCosts.from_record(json.loads(found))
    assert costs.stages["read"].items == costs.stages["decode"].items == 13
    assert costs.stages["read"].bytes == sum(query(result.warehouse, "SELECT bytes FROM images")["bytes"][:12]) + len(b"<html>")
    assert costs.stages["backbone"].items == costs.stages["score"].items == result.scored == 12
    assert costs.stages["write"].items == costs.stages["land"].items == result.members == 13
    assert all(cost.seconds > 0 for cost in costs.stages.values())
    assert 0 < costs.busy("backbone") <= 1
    assert costs.queues
    before, after = after, scraped(endpoint)
    assert (
        after['mdmf_stage_items_total{stage="backbone"}'] - before['mdmf_stage_items_total{stage="backbone"}'] == again.scored
    )
    assert after['mdmf_members_total{verdict="scored"}'] - before['mdmf_members_total{verdict="scored"}'] == again.scored
    assert after['mdmf_shards_total{state="complete"}'] - before['mdmf_shards_total{state="complete"}'] == 1
    assert after['mdmf_stage_seconds_total{stage="decode"}'] > before['mdmf_stage_seconds_total{stage="decode"}']


def test_a_part_that_another_run_finished_costs_this_run_nothing(setup, tmp_path):
    warehouse = str(tmp_path / "w.duckdb")
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup)
    assert costs_of([outcome], outcome.run_id).stages["backbone"].items == 3
    assert costs_of([outcome], "another run") == StageCosts()
    assert costs_of([replace(outcome, costs=None)], outcome.run_id) == StageCosts()


def test_a_part_from_before_costs_were_kept_is_read(setup, tmp_path):
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), str(tmp_path / "w.duckdb"), setup)
    table = pq.read_table(outcome.part)
    record = json.loads(table.schema.metadata[b"mdmf"]) if b"mdmf" in (table.schema.metadata or {}) else None
    record = record or json.loads(pq.read_metadata(outcome.part).metadata[b"mdmf"])
    del record["costs"]
    pq.write_table(table.replace_schema_metadata({"mdmf": json.dumps(record)}), outcome.part)
    found = finished_part(outcome.part)
    assert found is not None
    assert (found.costs, found.scored) == (None, 3)


def test_a_run_that_could_score_nothing_has_costs_too(curate, tmp_path):
    (tmp_path / "w.parquet").write_bytes(b"PAR1" + b"x" * 50 + (20).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(MdmfError, match="none of 1 shards could be scored"):
        curate(tmp_path / "w.parquet")
    ((found, state),) = query(str(tmp_path / "warehouse.duckdb"), "SELECT metrics, state FROM runs").to_numpy()
    assert state == "failed"
    assert StageCosts.from_record(json.loads(found)).stages["land"].items == 0
