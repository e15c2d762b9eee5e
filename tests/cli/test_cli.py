"""The `mdmf` command as a user meets it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import ROOT, write_shard
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from mdmf_cli.main import app


def mdmf(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def mdmf_process(*arguments: object) -> tuple[int, str]:
    """Runs the command as a process of its own, where Prefect's logging has the terminal that it expects."""
    command = [sys.executable, "-m", "mdmf_cli.main", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def warehouse(curate, tmp_path) -> Path:
    curate(write_shard(tmp_path / "00000.tar", range(30), {"x.html": b"<html>"}))
    return tmp_path / "warehouse.duckdb"


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("curate",),
        ("sql",),
        ("doctor",),
        ("demo",),
        ("report",),
        ("bank", "build"),
        ("bank", "verify"),
        ("rescore",),
        ("review", "import"),
        ("review", "sample"),
        ("train",),
        ("evaluate",),
        ("verify",),
        ("backup",),
        ("restore",),
        ("migrate",),
        ("export",),
        ("reshard",),
        ("weights", "fetch"),
        ("weights", "show"),
    ],
)
def test_help_of_every_command(command):
    status, text = mdmf(*command, "--help")
    assert status == 0
    assert "Usage" in text


def test_curate_prints_the_accounting_line(prefect_server, tiny_scorer, tiny_bank, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(3), {"x.html": b"<html>"})
    status, text = mdmf("curate", source, "--warehouse", tmp_path / "w.duckdb", "--scorer", tiny_scorer, "--bank", tiny_bank)
    assert status == 0
    assert "4 members = 3 scored + 1 excluded" in text
    assert "report: " in text


def test_errors_are_one_sentence_and_status_1(tmp_path):
    for command in (
        ("sql", "SELECT 1", "--warehouse", tmp_path / "none.duckdb"),
        ("report", "--warehouse", tmp_path / "none.duckdb"),
    ):
        status, text = mdmf(*command)
        assert status == 1
        assert "error:" in text


def test_sets_that_cannot_be_learned_from_are_one_sentence(prefect_server, tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "a" / "1.jpg").write_bytes(b"")
    for command in ("train", "evaluate"):
        status, text = mdmf(command, tmp_path, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
        assert status == 1
        assert "at least 20" in text.replace("\n", " ")
        assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_ends_the_command_without_a_warehouse(prefect_server, tmp_path):
    status, text = mdmf_process("curate", "/nowhere/x.tar", "--warehouse", tmp_path / "w.duckdb")
    assert status == 1
    assert "error: /nowhere/x.tar: no shards or images there" in text.replace("\n", " ")
    assert not (tmp_path / "w.duckdb").exists()


def test_the_report_can_be_written_elsewhere_but_never_over_something_else(warehouse, tmp_path):
    status, text = mdmf("report", "--warehouse", warehouse, "--out", tmp_path / "page", "--device", "cpu")
    assert (status, text.strip()) == (0, str(tmp_path / "page" / "index.html"))
    assert "No evidence maps" not in (tmp_path / "page" / "index.html").read_text()
    (tmp_path / "page" / "mdmf-report.json").unlink()
    status, text = mdmf("report", "--warehouse", warehouse, "--out", tmp_path / "page")
    assert (status, "is not a report of mdmf" in text) == (1, True)


def test_sql_in_each_format(warehouse):
    status, text = mdmf("sql", "SELECT count(*) AS n FROM scored", "--warehouse", warehouse)
    assert (status, "30" in text) == (0, True)
    status, text = mdmf("sql", "SELECT key FROM scored ORDER BY key LIMIT 2", "--warehouse", warehouse, "--format", "csv")
    assert text == "key\n000000000\n000000001\n"
    status, text = mdmf("sql", "SELECT key FROM scored ORDER BY key LIMIT 1", "--warehouse", warehouse, "--format", "json")
    assert json.loads(text) == {"key": "000000000"}
    status, text = mdmf("sql", "SELEC 1", "--warehouse", warehouse)
    assert (status, "Parser Error" in text) == (1, True)
    status, text = mdmf("sql", "DELETE FROM images", "--warehouse", warehouse)
    assert (status, "DELETE is no question" in text) == (1, True)


def test_rows_too_wide_for_the_terminal_are_a_line_for_each_value(warehouse):
    shown = CliRunner().invoke(app, ["sql", "SELECT * FROM accounting", "--warehouse", warehouse]).output
    assert re.search(r"^url +\S+00000\.tar$", shown, re.MULTILINE)
    assert re.search(r"^state +complete$", shown, re.MULTILINE)
    assert "│" not in shown


def test_asking_the_warehouse_loads_no_model_and_no_server():
    asked = [
        "keeplists.export", "keeplists.reshard", "maintenance.backup", "maintenance.content_digest", "maintenance.verify",
        "reviews.csv_files", "reviews.verdicts", "warehouse.warehouse", "warehouse.questions",
    ]  # fmt: skip
    code = f"import sys, mdmf_cli.main, {', '.join(f'tasks.{name}' for name in asked)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "timm", "sklearn"} & set(done.stdout.split())


def test_plain_duckdb_shell_answers_flagged_and_refuses_an_unreachable_budget(warehouse):
    shell = str(Path(sys.executable).with_name("duckdb"))

    def ask(sql: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([shell, "-readonly", "-csv", str(warehouse), "-c", sql], capture_output=True, text=True)

    counts = (
        "SELECT (SELECT count(*) FROM flagged(0.5)) + (SELECT count(*) FROM kept(0.5)) + (SELECT count(*) FROM unsure()) AS n"
    )
    assert ask(counts).stdout.split() == ["n", "30"]
    assert ask("SELECT max(p_value) <= 0.5 AS ok FROM flagged(0.5)").stdout.split() == ["ok", "true"]
    refused = ask("SELECT * FROM flagged(0.0001)")
    assert refused.returncode != 0
    assert "it would take 9999" in refused.stderr
    assert "generated_share" in ask("FROM prevalence()").stdout


def test_doctor_names_digests_and_fails_on_a_source_that_is_not_there(tiny_scorer, tiny_bank, warehouse):
    status, text = mdmf("doctor", "--scorer", tiny_scorer, "--bank", tiny_bank, "--warehouse", warehouse)
    assert status == 0
    assert "budgets from" in text
    assert "1 shards, 30 images scored" in text
    status, text = mdmf("doctor", "--scorer", tiny_scorer, "--bank", tiny_bank, "--source", "s3://", "--source", "/nowhere")
    assert status == 1
    assert "wrong storage" in text


def test_every_query_of_the_readme_runs_in_the_plain_shell(warehouse, tmp_path):
    queries = re.search(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    shell = str(Path(sys.executable).with_name("duckdb"))
    done = subprocess.run(
        [shell, "-readonly", "-bail", str(warehouse)], input=queries, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "keep.parquet").exists()
