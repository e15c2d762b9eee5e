"""The life of banks as a user leads it: build, promote, curate, build the next, rescore, compare, roll back, retire."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from fabricate import build_settings, encoded, generated, write_shard
from typer.testing import CliRunner

from mdmf_cli.main import app
from mdmf_core.errors import ArtifactError, MdmfError
from tasks.banks import build
from tasks.scorers import load_bank, load_scorer
from tasks.warehouse import query

CONTENT = "SELECT key, score, p_value, domain, in_support, top_patch FROM scored ORDER BY key"


def mdmf(*command: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(part) for part in command])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def folder(path: Path, seeds: range, **options: object) -> Path:
    path.mkdir(parents=True)
    for seed in seeds:
        (path / f"{seed}.jpg").write_bytes(encoded(seed, **options))
    return path


@pytest.fixture
def at(prefect_server, tiny_scorer, tmp_path):
    """The options that every command here shares."""
    return {"warehouse": str(tmp_path / "w.duckdb"), "scorer": tiny_scorer, "store": str(tmp_path / "banks")}


def built(source: Path, name: str, at: dict[str, str], *more: object) -> str:
    status, text = mdmf(
        "bank", "build", source, "--name", name, "--store", at["store"], "--warehouse", at["warehouse"],
        "--scorer", at["scorer"], "--points", 60, "--device", "cpu", *more,
    )  # fmt: skip
    assert status == 0, text
    return text


def curated(source: Path, at: dict[str, str], *more: object) -> str:
    status, text = mdmf("curate", source, "--warehouse", at["warehouse"], "--scorer", at["scorer"], "--device", "cpu", *more)
    assert status == 0, text
    return text


def test_the_life_of_a_bank(at, tmp_path):
    warehouse = at["warehouse"]
    source = write_shard(tmp_path / "00000.tar", range(12), {"broken.jpg": b"\xff\xd8\xffno"})
    first, second = folder(tmp_path / "a", range(1000, 1060)), folder(tmp_path / "b", range(2000, 2060))
    assert "photos@1 at" in built(first, "photos", at)
    assert mdmf("bank", "promote", "photos@1", "--warehouse", warehouse) == (0, "@production is photos@1, calibration 1\n")
    assert "12 scored" in curated(source, at, "--bank", "@production", "--keep-signatures", 1)
    before = query(warehouse, CONTENT)
    assert len(before) == 12

    assert "photos@2" in built(second, "photos", at)
    assert "photos@2" in built(second, "photos", at)  # the same content is the same version
    status, text = mdmf("bank", "promote", "photos", "--warehouse", warehouse, "--rescore", "--scorer", at["scorer"])
    assert (status, "@production is photos@2" in text) == (0, True), text
    assert "12 images of 1 shards scored again" in text
    rescored = query(warehouse, CONTENT)
    assert (rescored["score"] != before["score"]).any()
    accounting = query(warehouse, "SELECT members, scored, excluded, state FROM accounting")
    assert accounting.to_dict("records") == [{"members": 13, "scored": 12, "excluded": 1, "state": "complete"}]

    # From the pixels the second bank gives the same, up to the halves that signatures are kept in.
    other = at | {"warehouse": str(tmp_path / "fresh.duckdb")}
    curated(source, other, "--bank", load_entry(warehouse, "photos@2"))
    fresh = query(other["warehouse"], CONTENT)
    assert (fresh["score"] - rescored["score"]).abs().max() < 2e-3 * rescored["score"].abs().max()

    status, text = mdmf("bank", "diff", "photos@1", "photos@2", "--fpr", 0.2, "--warehouse", warehouse)
    assert status == 0
    assert re.search(r"images_only_here .* \d+ .* \d+", text)
    assert "newly_flagged" in text
    assert mdmf("bank", "rollback", "--warehouse", warehouse) == (0, "@production is photos@1 again, calibration 1\n")
    pd.testing.assert_frame_equal(query(warehouse, CONTENT), before)  # nothing is computed again
    status, text = mdmf("bank", "rollback", "--warehouse", warehouse)
    assert (status, "nothing to go back to" in text) == (1, True)
    status, text = mdmf("bank", "retire", "photos@1", "--warehouse", warehouse)
    assert (status, "photos@1 is @production; promote another bank first" in text) == (1, True)
    assert mdmf("bank", "retire", "photos@2", "--warehouse", warehouse)[0] == 0
    status, text = mdmf("bank", "promote", "photos@2", "--warehouse", warehouse)
    assert (status, "retired; it cannot be promoted" in text) == (1, True)
    status, text = mdmf("bank", "list", "--warehouse", warehouse)
    assert (status, "photos@1" in text, "@production" in text) == (0, True, True)
    status, text = mdmf("bank", "show", "photos@1", "--warehouse", warehouse)
    assert (status, "error" in text, "sure_line" in text) == (0, True, True)


def load_entry(warehouse: str, title: str) -> str:
    name, version = title.split("@")
    return query(warehouse, "SELECT url FROM banks WHERE name = ? AND version = ?", [name, int(version)])["url"][0]


def test_rescoring_again_does_nothing_and_shards_without_signatures_are_counted(at, tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 4))
    built(folder(tmp_path / "a", range(1000, 1040)), "photos", at)
    curated(tmp_path / "00000.tar", at, "--bank", "photos", "--keep-signatures", 1)
    curated(tmp_path / "00001.tar", at, "--bank", "photos")
    built(folder(tmp_path / "b", range(2000, 2040)), "photos", at)
    command = ["rescore", "--bank", "photos@2", "--warehouse", at["warehouse"], "--scorer", at["scorer"]]
    status, text = mdmf(*command)
    assert (status, "4 images of 1 shards" in text, "1 without kept signatures" in text) == (0, True, True), text
    status, text = mdmf(*command)
    assert (status, "0 images of 0 shards" in text, "1 shards complete before" in text) == (0, True, True), text


def test_signatures_that_do_not_fit_their_part_are_refused_and_nothing_lands(at, tmp_path):
    built(folder(tmp_path / "a", range(1000, 1040)), "photos", at)
    curated(write_shard(tmp_path / "00000.tar", range(5)), at, "--bank", "photos", "--keep-signatures", 1)
    built(folder(tmp_path / "b", range(2000, 2040)), "photos", at)
    (kept,) = Path(f"{at['warehouse']}.parts", "signatures").iterdir()
    command = ["rescore", "--bank", "photos@2", "--warehouse", at["warehouse"], "--scorer", at["scorer"]]
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    status, text = mdmf(*command)
    assert (status, "are damaged" in text) == (1, True), text
    write_shard(tmp_path / "other.tar", range(50, 55))
    curated(tmp_path / "other.tar", at, "--bank", "photos@1", "--keep-signatures", 1)
    (other,) = (path for path in Path(f"{at['warehouse']}.parts", "signatures").iterdir() if path != kept)
    kept.write_bytes(other.read_bytes())
    status, text = mdmf(*command)
    assert (status, "no kept signature for" in text) == (1, True), text
    assert query(at["warehouse"], "SELECT count(DISTINCT bank_id) AS n FROM scores")["n"][0] == 1
    assert set(query(at["warehouse"], "SELECT state FROM runs WHERE flow = 'rescore'")["state"]) == {"failed"}
    kept.write_bytes(whole)
    assert mdmf(*command)[0] == 0


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


def test_domains_by_folder_and_by_column_and_by_clustering(tiny_scorer, tmp_path):
    scorer = load_scorer(tiny_scorer, "cpu")
    for name, seeds in (("photos", range(1000, 1060)), ("art", range(3000, 3060))):
        folder(tmp_path / "set" / name, seeds)
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


def test_matched_slices_make_images_of_other_qualities_unsure(at, tmp_path):
    built(folder(tmp_path / "a", range(1000, 1060)), "photos", at, "--match", "quality")
    source = write_shard(
        tmp_path / "00000.tar", range(3), {"low.jpg": encoded(9, quality=60), "high.jpg": encoded(9, quality=95)}
    )
    curated(source, at, "--bank", "photos")
    found = query(at["warehouse"], "SELECT key, domain, in_support FROM scored ORDER BY key").set_index("key")
    assert set(found["domain"]) == {"photo, jpeg 90-100"}
    assert found["in_support"].to_dict() == {
        "000000000": True,
        "000000001": True,
        "000000002": True,
        "high": True,
        "low": False,
    }
    assert query(at["warehouse"], "SELECT key FROM unsure(0.2)")["key"].tolist() == ["low"]


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


def test_a_second_calibration_is_numbered_and_disjoint(at, tmp_path, real_folder):
    built(real_folder, "photos", at)
    fresh = folder(tmp_path / "fresh", range(4000, 4050))
    shutil.copy(Path(real_folder) / "1000.jpg", fresh)  # one that bank or calibration holds
    common = ["--warehouse", at["warehouse"], "--scorer", at["scorer"]]
    status, text = mdmf("bank", "calibrate", "photos@1", fresh, *common, "--device", "cpu")
    assert status == 0, text
    assert re.search(r"photos@1, calibration 2: 5[01] images", text)
    source = write_shard(tmp_path / "00000.tar", range(4))
    curated(source, at, "--bank", "photos@1", "--calibration", "1")
    curated(source, at, "--bank", "photos@1")  # the newest
    assert query(at["warehouse"], "SELECT count(DISTINCT calibration_id) AS n FROM scores")["n"][0] == 2
    status, text = mdmf("bank", "promote", "photos@1", "--calibration", "2", "--warehouse", at["warehouse"])
    assert (status, "calibration 2" in text) == (0, True)
    status, text = mdmf("bank", "promote", "@production", "--calibration", "1", "--warehouse", at["warehouse"])
    assert (status, "photos@1, calibration 1" in text) == (0, True)
    status, text = mdmf("bank", "promote", "photos@1", "--calibration", "3", "--warehouse", at["warehouse"])
    assert (status, "has no calibration 3" in text) == (1, True)


def test_verify_passes_a_whole_bank_and_refuses_a_flipped_byte(at, tmp_path, real_folder):
    built(real_folder, "photos", at)
    curated(write_shard(tmp_path / "00000.tar", range(8)), at, "--bank", "photos", "--keep-signatures", 1, "--promote")
    status, text = mdmf("bank", "verify", "photos", "--warehouse", at["warehouse"], "--scorer", at["scorer"])
    assert (status, "all in band" in text) == (0, True), text
    assert "| photo |" in text
    path = Path(load_entry(at["warehouse"], "photos@1"), "bank.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    load_bank.cache_clear()
    status, text = mdmf("bank", "verify", "photos", "--warehouse", at["warehouse"], "--scorer", at["scorer"])
    assert (status, "has sha256" in text) == (1, True), text


def test_verify_sees_a_corpus_that_has_drifted(at, tmp_path, real_folder):
    built(real_folder, "photos", at)
    strange = {f"{seed}.jpg": generated(seed, quality=90) for seed in range(60)}
    source = write_shard(tmp_path / "00000.tar", range(0), strange)
    curated(source, at, "--bank", "photos", "--keep-signatures", 1)
    status, text = mdmf("bank", "verify", "photos", "--warehouse", at["warehouse"], "--scorer", at["scorer"])
    assert (status, "the corpus differs from the bank" in text) == (1, True), text


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "no bank 'nothing' in the registry; there are photos@1"),
        ("photos@7", "no bank 'photos@7' in the registry"),
        ("@staging", "alias @staging points nowhere"),
    ],
)
def test_references_to_nothing_say_what_there_is(at, tmp_path, real_folder, reference, message):
    status, text = mdmf(
        "curate", write_shard(tmp_path / "0.tar", range(1)), "--bank", reference, "--warehouse", at["warehouse"]
    )
    assert (status, "there is no warehouse" in text) == (1, True), text
    built(real_folder, "photos", at)
    status, text = mdmf(
        "curate", tmp_path / "0.tar", "--bank", reference, "--warehouse", at["warehouse"], "--scorer", at["scorer"]
    )
    assert (status, message in text) == (1, True), text


@pytest.mark.parametrize(
    ("seeds", "message"),
    [(range(0), "no shards or images"), (range(1), "1 usable images .* at least 2 of each"), (range(3), "at least 2 of each")],
)
def test_collections_too_small_publish_nothing(tiny_scorer, tmp_path, seeds, message):
    source = folder(tmp_path / "few", seeds)
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


def test_a_build_killed_at_any_point_publishes_nothing_or_all(tiny_scorer, real_folder, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from fabricate import build_settings; from tasks.banks import build; "
        "from tasks.scorers import load_scorer; print('ready', flush=True); "
        "build(build_settings(*sys.argv[2:5]), load_scorer(sys.argv[4], 'cpu'))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1]), real_folder, str(tmp_path / "banks"), tiny_scorer]
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
    from tasks.bank_steps import registered

    loaded = load_scorer(scorer, "cpu")
    return registered(build(build_settings(source, store, scorer, name="photos"), loaded), loaded, warehouse, None)


def test_two_builds_of_one_name_at_once_end_in_two_versions(tiny_scorer, tmp_path):
    sources = [folder(tmp_path / name, range(start, start + 24)) for name, start in (("a", 1000), ("b", 2000))]
    work = [(str(source), str(tmp_path / "banks"), str(tmp_path / "w.duckdb"), tiny_scorer) for source in sources]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        titles = pool.map(_register, work)
    assert sorted(titles) == ["photos@1", "photos@2"]
    frame = query(str(tmp_path / "w.duckdb"), "SELECT version, url, images FROM banks ORDER BY version")
    assert len(set(frame["url"])) == 2
    for url in frame["url"]:
        bank, _ = load_bank(url)
        assert len({m.source for m in bank.members}) == 1
