"""Building banks: domains, expulsion, what is refused, kills and races."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fabricate import build_settings, encoded, write_folder, write_shard

from mdmf import to_pandas as query
from mdmf_core.errors import ArtifactError, MdmfError
from tasks.banks import build as building
from tasks.banks.build import build
from tasks.scoring.loading import load_bank, load_scorer

CONTENT = "SELECT key, score, p_value, domain, in_support, top_patch FROM scored ORDER BY key"


def test_building_twice_gives_the_same_bank_from_another_order_too(tiny_scorer, real_folder, tmp_path):
    scorer = load_scorer(tiny_scorer, "cpu")
    one = build(build_settings(real_folder, tmp_path / "one", tiny_scorer), scorer)
    two = build(build_settings(real_folder, tmp_path / "two", tiny_scorer), scorer)
    assert (one.bank_id, one.calibration_id) == (two.bank_id, two.calibration_id)
    again = build(build_settings(real_folder, tmp_path / "one", tiny_scorer), scorer)
    assert again.directory == one.directory
    bank, calibration = load_bank(one.directory)
    assert not {m.sha256 for m in bank.members} & set(calibration.slices[0].sha256s)
    assert all(m.format == "JPEG" and m.width == 256 and m.score is not None for m in bank.members)


def test_a_build_that_comes_second_takes_the_bank_of_the_first(tiny_scorer, real_folder, tiny_bank, tmp_path, monkeypatch):
    """Both look before either has published, and the second finds the directory when it renames its own."""
    first = tmp_path / Path(tiny_bank).name
    shutil.copytree(tiny_bank, first)
    looks, look = iter([False]), building._is_published
    monkeypatch.setattr(building, "_is_published", lambda *args: next(looks, None) is None and look(*args))
    built = build(build_settings(real_folder, tmp_path, tiny_scorer), load_scorer(tiny_scorer, "cpu"))
    assert (built.directory, built.calibration_url) == (str(first), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name]


def test_domains_by_folder_and_by_column_and_by_clustering(tiny_scorer, tmp_path):
    scorer = load_scorer(tiny_scorer, "cpu")
    for name, seeds in (("photos", range(1000, 1060)), ("art", range(3000, 3060))):
        write_folder(tmp_path / "set" / name, seeds)
    by_folder = build(build_settings(tmp_path / "set", tmp_path / "banks", tiny_scorer, domains="folder"), scorer)
    assert by_folder.slices == ("art", "photos")
    files = {}
    for seed in range(120):
        files[f"{seed}.jpg"] = encoded(seed)
        files[f"{seed}.json"] = json.dumps({"kind": "cat" if seed % 2 else "dog", "license": "CC0"}).encode()
    write_shard(tmp_path / "00000.tar", range(0), files)
    by_column = build(build_settings(tmp_path / "00000.tar", tmp_path / "banks", tiny_scorer, domains="column:kind"), scorer)
    assert by_column.slices == ("cat", "dog")
    members = load_bank(by_column.directory)[0].members
    assert {m.licence for m in members} == {"CC0"}
    assert all((int(m.key) % 2 == 1) == (m.domain == "cat") for m in members)
    by_cluster = build(build_settings(tmp_path / "set", tmp_path / "banks", tiny_scorer, domains="cluster:2"), scorer)
    assert by_cluster.slices == ("cluster-0", "cluster-1")
    with pytest.raises(MdmfError, match="has no field 'colour' in its json; fields there: kind, license"):
        build(build_settings(tmp_path / "00000.tar", tmp_path / "banks", tiny_scorer, domains="column:colour"), scorer)
    with pytest.raises(MdmfError, match="lies in no folder"):
        build(build_settings(tmp_path / "set" / "art", tmp_path / "banks", tiny_scorer, domains="folder"), scorer)


def test_expelled_images_are_in_neither_half(tiny_scorer, real_folder, tmp_path):
    scorer = load_scorer(tiny_scorer, "cpu")
    whole = build(build_settings(real_folder, tmp_path / "banks", tiny_scorer), scorer)
    bank, calibration = load_bank(whole.directory)
    gone = [bank.members[0].sha256, calibration.slices[0].sha256s[0]]
    (tmp_path / "expel.csv").write_text("sha256,why\n" + "".join(f'"{sha}",looks generated\n' for sha in gone))
    settings = build_settings(real_folder, tmp_path / "banks", tiny_scorer, expel=str(tmp_path / "expel.csv"))
    less = build(settings, scorer)
    assert less.expelled == 2
    bank, calibration = load_bank(less.directory)
    assert not set(gone) & ({m.sha256 for m in bank.members} | set(calibration.slices[0].sha256s))
    # Without one calibration image it is the same bank under another calibration, which lies beside it.
    (tmp_path / "expel.csv").write_text(gone[1])
    other = build(settings, scorer)
    assert (other.bank_id, other.directory) == (whole.bank_id, whole.directory)
    assert other.calibration_id != whole.calibration_id
    _, calibration = load_bank(other.directory, other.calibration_url)
    assert calibration.calibration_id == other.calibration_id
    assert gone[1] not in calibration.slices[0].sha256s
    (tmp_path / "none.csv").write_text("nothing\n")
    with pytest.raises(ArtifactError, match="no line starts with a sha256"):
        build(settings.model_copy(update={"expel": str(tmp_path / "none.csv")}), scorer)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [(range(0), "no shards or images"), (range(1), "1 usable images .* at least 2 of each"), (range(3), "at least 2 of each")],
)
def test_collections_too_small_publish_nothing(tiny_scorer, tmp_path, seeds, message):
    source = write_folder(tmp_path / "few", seeds)
    with pytest.raises(MdmfError, match=message):
        build(build_settings(source, tmp_path / "banks", tiny_scorer), load_scorer(tiny_scorer, "cpu"))
    assert not (tmp_path / "banks").exists()


def test_tokens_that_are_not_numbers_publish_nothing(tiny_scorer, real_folder, tmp_path, monkeypatch):
    scorer = load_scorer(tiny_scorer, "cpu")
    honest = type(scorer).extract

    def broken(self, images):
        found = honest(self, images)
        return replace(found, vectors=torch.where(found.vectors > 2, torch.nan, found.vectors))

    monkeypatch.setattr(type(scorer), "extract", broken)
    with pytest.raises(ArtifactError, match="hold NaN or infinity; the bank was not built"):
        build(build_settings(real_folder, tmp_path / "banks", tiny_scorer), scorer)
    assert not (tmp_path / "banks").exists()


def test_an_error_bound_that_is_not_reached_publishes_nothing(tiny_scorer, real_folder, tmp_path):
    settings = build_settings(real_folder, tmp_path / "banks", tiny_scorer, points=3, max_error=1e-6)
    with pytest.raises(ArtifactError, match="3 points reach an error of"):
        build(settings, load_scorer(tiny_scorer, "cpu"))
    assert not (tmp_path / "banks").exists()


@pytest.mark.long
def test_a_build_killed_at_any_point_publishes_nothing_or_all(tiny_scorer, real_folder, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from fabricate import build_settings; "
        "from tasks.banks.build import build; "
        "from tasks.scoring.loading import load_scorer; print('ready', flush=True); "
        "build(build_settings(*sys.argv[2:5]), load_scorer(sys.argv[4], 'cpu'))"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(Path(__file__).parents[2] / "helpers"),
        real_folder,
        str(tmp_path / "banks"),
        tiny_scorer,
    ]
    whole = subprocess.run([*command[:5], str(tmp_path / "whole"), tiny_scorer], capture_output=True, check=True)
    assert whole.stdout
    (expected,) = (tmp_path / "whole").iterdir()
    for delay in (0.2, 0.9, 1.6):
        running = subprocess.Popen(command, stdout=subprocess.PIPE)
        running.stdout.readline()
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        for found in (tmp_path / "banks").glob("*") if (tmp_path / "banks").exists() else ():
            if found.suffix != ".tmp":
                assert found.name == expected.name
                assert sorted(os.listdir(found)) == sorted(os.listdir(expected))
                load_bank.cache_clear()
                load_bank(str(found))
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "banks" / expected.name / "bank.json").read_bytes() == (expected / "bank.json").read_bytes()


def _register(arguments: tuple[str, str, str, str]) -> str:
    source, store, warehouse, scorer = arguments
    from tasks.warehouse.warehouse import Warehouse

    loaded = load_scorer(scorer, "cpu")
    return build(build_settings(source, store, scorer, name="photos"), loaded, registry=Warehouse.at(warehouse)).title


def test_two_builds_of_one_name_at_once_end_in_two_versions(tiny_scorer, tmp_path):
    sources = [write_folder(tmp_path / name, range(start, start + 24)) for name, start in (("a", 1000), ("b", 2000))]
    work = [(str(source), str(tmp_path / "banks"), str(tmp_path / "w.duckdb"), tiny_scorer) for source in sources]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        titles = pool.map(_register, work)
    assert sorted(titles) == ["photos@1", "photos@2"]
    frame = query(str(tmp_path / "w.duckdb"), "SELECT version, url, images FROM banks ORDER BY version")
    assert len(set(frame["url"])) == 2
    for url in frame["url"]:
        bank, _ = load_bank(url)
        assert len({m.source for m in bank.members}) == 1
