"""The life of banks as a user leads it: build, promote, curate, build the next, rescore, compare, roll back, retire."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fabricate import encoded, generated, write_folder, write_shard
from typer.testing import CliRunner

from mdmf import to_pandas as query
from mdmf_cli.main import app
from tasks.scoring.loading import load_bank

CONTENT = "SELECT key, score, p_value, domain, in_support, top_patch FROM scored ORDER BY key"


def mdmf(*command: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(part) for part in command])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


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
    first, second = write_folder(tmp_path / "a", range(1000, 1060)), write_folder(tmp_path / "b", range(2000, 2060))
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
    built(write_folder(tmp_path / "a", range(1000, 1040)), "photos", at)
    curated(tmp_path / "00000.tar", at, "--bank", "photos", "--keep-signatures", 1)
    curated(tmp_path / "00001.tar", at, "--bank", "photos")
    built(write_folder(tmp_path / "b", range(2000, 2040)), "photos", at)
    source = tmp_path / "00000.tar"
    whole, times = source.read_bytes(), source.stat()
    source.write_bytes(whole[:-4096])
    assert "1 deferred" in curated(source, at, "--bank", "photos@2")  # which must not keep out what is rescored
    source.write_bytes(whole)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    command = ["rescore", "--bank", "photos@2", "--warehouse", at["warehouse"], "--scorer", at["scorer"]]
    status, text = mdmf(*command)
    assert (status, "4 images of 1 shards" in text, "1 without kept signatures" in text) == (0, True, True), text
    assert query(at["warehouse"], "SELECT count(*) AS n FROM scores")["n"][0] == 12
    status, text = mdmf(*command)
    assert (status, "0 images of 0 shards" in text, "1 shards complete before" in text) == (0, True, True), text


def test_signatures_that_do_not_fit_their_part_are_refused_and_nothing_lands(at, tmp_path):
    built(write_folder(tmp_path / "a", range(1000, 1040)), "photos", at)
    curated(write_shard(tmp_path / "00000.tar", range(5)), at, "--bank", "photos", "--keep-signatures", 1)
    built(write_folder(tmp_path / "b", range(2000, 2040)), "photos", at)
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


def test_matched_slices_make_images_of_other_qualities_unsure(at, tmp_path):
    built(write_folder(tmp_path / "a", range(1000, 1060)), "photos", at, "--match", "quality")
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


def test_a_second_calibration_is_numbered_and_disjoint(at, tmp_path, real_folder):
    built(real_folder, "photos", at)
    fresh = write_folder(tmp_path / "fresh", range(4000, 4050))
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


def test_what_reviewers_call_generated_is_in_no_bank_and_no_calibration(at, tmp_path, real_folder):
    built(real_folder, "photos", at)
    bank, calibration = load_bank(load_entry(at["warehouse"], "photos@1"))
    doubted = [bank.members[0].sha256, calibration.slices[0].sha256s[0]]
    source = write_shard(tmp_path / "00000.tar", range(1000, 1080))  # the same pictures as in the folder
    curated(source, at, "--bank", "photos@1")
    rows = query(at["warehouse"], "SELECT image_id FROM images WHERE list_contains(?, sha256)", [doubted])
    assert len(rows) == 2
    (tmp_path / "verdicts.csv").write_text(
        "image_id,verdict,reviewer\n" + "".join(f"{image},generated,ana\n" for image in rows["image_id"])
    )
    assert mdmf("review", "import", tmp_path / "verdicts.csv", "--warehouse", at["warehouse"])[0] == 0
    common = ["--warehouse", at["warehouse"], "--scorer", at["scorer"]]
    status, text = mdmf("bank", "verify", "photos@1", *common)
    assert status == 1
    assert f"1 images of the bank are reviewed as generated ({bank.members[0].key}); build its next version" in text
    assert f"1 images of the calibration are reviewed as generated ({doubted[1][:12]}); calibrate again" in text
    assert "2 left out as generated by review" in built(real_folder, "photos", at)
    bank, calibration = load_bank(load_entry(at["warehouse"], "photos@2"))
    assert not set(doubted) & {*(member.sha256 for member in bank.members), *calibration.slices[0].sha256s}
    assert mdmf("bank", "verify", "photos@2", *common)[0] == 0
    status, text = mdmf("bank", "calibrate", "photos@2", real_folder, *common, "--device", "cpu")
    assert (status, "2 left out as generated by review" in text) == (0, True), text
