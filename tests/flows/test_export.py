"""Export and reshard as flows and as commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import sample, scored_warehouse
from fabricate import ROOT, write_tar
from typer.testing import CliRunner
from yaml import safe_load

import mdmf
from mdmf_cli.main import app
from mdmf_core.keeplists.keeplist import KeepList


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output.replace("\n", " ")


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    files = [file for key in range(50) for file in sample(f"{key:09d}", key).items()]
    write_tar(tmp_path / "00000.tar", dict(files))
    return scored_warehouse(tmp_path / "w.duckdb", [tmp_path / "00000.tar"])


def test_the_deployments_write_what_the_commands_write(prefect_server, warehouse, tmp_path):
    from flows.export import export, reshard

    deployments = {
        one["entrypoint"]: one["parameters"] for one in safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    parameters = deployments["flows.export.export"] | {"warehouse": warehouse, "out": str(tmp_path / "{time}")}
    found = export(**parameters)
    copied = reshard(found.directory, str(tmp_path / "copied"))
    assert (copied.samples, copied.shards) == (found.rows, 1)
    status, text = command("export", tmp_path / "keep", "--warehouse", warehouse)
    assert status == 0
    assert f"{found.rows} images in" in text
    status, text = command("reshard", tmp_path / "keep", tmp_path / "out")
    assert (status, text.startswith(f"{found.rows} samples in 1 shards")) == (0, True)
    assert (tmp_path / "out" / "00000.tar").read_bytes() == (tmp_path / "copied" / "00000.tar").read_bytes()


def test_every_option_of_export_reaches_the_list(warehouse, tmp_path):
    status, text = command(
        "export", tmp_path / "keep", "--warehouse", warehouse, "--which", "kept", "--budget", 0.3, "--unsure", "drop",
        "--where", "key > '000000009'", "--format", "parquet,csv,datacomp", "--uid", "image_id",
    )  # fmt: skip
    assert status == 0, text
    asked = mdmf.to_pandas(warehouse, "SELECT key FROM kept(?) WHERE key > '000000009' ORDER BY key", [0.3])
    assert KeepList(tmp_path / "keep").to_pandas().key.tolist() == asked.key.tolist()
    assert len(np.load(tmp_path / "keep" / "keep.npy")) == len(asked)
    selection = json.loads((tmp_path / "keep" / "manifest.json").read_text())["selection"]
    assert selection == {
        "which": "kept", "budget": 0.3, "unsure": "drop", "keep_excluded": [], "where": "key > '000000009'", "sql": None
    }  # fmt: skip
    table = mdmf.to_arrow(warehouse, "SELECT key FROM kept(?) WHERE key > '000000009' ORDER BY key", [0.3])
    assert table["key"].to_pylist() == asked.key.tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "pdf"), "--format pdf: it takes parquet, csv, datacomp"),
        (("--budget", "7"), "--budget 7.0: it lies between 0 and 1"),
        (("--budget", "0.001"), "error: budget 0.001 cannot be kept: this calibration has 199 real images"),
        (("--where", "beauty > 1"), 'Referenced column "beauty" not found'),
        (("--keep-excluded", "truncated"), "no member was excluded for it; reasons there: none"),
    ],
)
def test_slips_are_one_sentence_and_write_nothing(warehouse, tmp_path, arguments, said):
    status, text = command("export", tmp_path / "keep", "--warehouse", warehouse, *arguments)
    assert (status, said in text) == (1, True), text
    assert not (tmp_path / "keep").exists()
    status, text = command("reshard", tmp_path / "keep", tmp_path / "out")
    assert (status, "is not a keep-list" in text) == (1, True)
    assert not (tmp_path / "out").exists()
