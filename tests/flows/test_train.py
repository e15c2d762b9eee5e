"""Train, curate with what was trained, evaluate: as a user does, on images that are made here."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from fabricate import encoded, generated, write_labelled, write_shard
from PIL import Image

from mdmf_core.errors import ArtifactError, LabelError, MdmfError
from tasks.scoring.loading import load_scorer, load_setup

ARMS = ("none", "mmd-d", "mmd-mp", "bce")
STATISTICS = ("mmd2", "cross", "top-k")
SMALL = {
    "backbone": "forensic",
    "statistics": STATISTICS,
    "views": 1,
    "seeds": 2,
    "steps_per_arm": 40,
    "points": 50,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def trained(prefect_server: None, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flows.train import train_pfs

    out = tmp_path_factory.mktemp("scorers") / "mine"
    cache = str(labelled / "cache")
    result = train_pfs(str(labelled), str(out), objectives=ARMS, cache=cache, **SMALL)
    assert result.auroc_mean > 0.9
    return out


def test_the_card_says_what_was_done_and_what_it_is_worth(trained):
    card = json.loads((trained / "scorer.json").read_text())["training"]
    assert card["data"]["images"] == 96
    assert {g["fold"] for g in card["data"]["groups"]} == {0, 1, 2}
    assert len(card["auroc_by_choice"]) == 4 * 3
    assert set(card["held_out"]["tables"]) == {
        "mdmf", "class-token probe", "mean-token probe", "patch vote", "plain mmd",
    }  # fmt: skip
    assert card["held_out"]["content_matched"] == []
    assert card["held_out"]["control_shuffled_labels"]["holds"]
    assert str(card).count("/real/") == 0  # no path of this machine
    rows = pq.read_table(trained / "training.parquet").to_pylist()
    assert {row["role"] for row in rows} == {"pfs", "bank", "calibrate"}
    assert all(row["role"] == "pfs" for row in rows if row["label"] == "generated")


def test_training_twice_gives_the_same_scorer_and_publishes_once(trained, labelled, prefect_server):
    from flows.train import train_pfs

    chosen = json.loads((trained / "scorer.json").read_text())["training"]["chosen"]["objective"]
    cache = str(labelled / "cache")
    again = train_pfs(str(labelled), str(trained.parent / "other" / trained.name), objectives=ARMS, cache=cache, **SMALL)
    assert again.scorer_id == json.loads((trained / "scorer.json").read_text())["scorer_id"]
    assert again.objective == chosen
    with pytest.raises(MdmfError, match="exists"):
        train_pfs(str(labelled), str(trained), objectives=("mmd-d",), cache=cache, **SMALL)


def test_curate_uses_a_trained_scorer_with_its_own_bank(trained, prefect_server, tmp_path):
    from flows.curate import curate

    write_shard(tmp_path / "00000.tar", range(700, 704), extra={f"{seed}.jpg": generated(9000 + seed) for seed in range(4)})
    warehouse = str(tmp_path / "warehouse.duckdb")
    assert curate(str(tmp_path / "00000.tar"), warehouse=warehouse, scorer=str(trained), device="cpu").scored == 8
    with duckdb.connect(warehouse, read_only=True) as connection:
        low, high = connection.execute(
            "SELECT max(score) FILTER (length(key) = 9), min(score) FILTER (length(key) = 1) FROM scored"
        ).fetchone()
    assert low < high


def test_a_card_that_does_not_match_its_weights_is_refused(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    card = json.loads((copy / "scorer.json").read_text())
    (copy / "scorer.json").write_text(json.dumps(card | {"sigma": 2 * card["sigma"]}))
    with pytest.raises(ArtifactError, match=r"digests to .* its card says"):
        load_scorer(str(copy), "cpu")
    (copy / "scorer.json").write_text(json.dumps(card | {"backbone": card["backbone"] | {"weights_digest": "0"}}))
    load_scorer.cache_clear()
    with pytest.raises(ArtifactError, match="was trained with 0"):
        load_scorer(str(copy), "cpu")
    (copy / "scorer.safetensors").write_bytes(b"x" + (trained / "scorer.safetensors").read_bytes())
    load_scorer.cache_clear()
    with pytest.raises(ArtifactError, match="sha256"):
        load_scorer(str(copy), "cpu")


def test_evaluate_reports_unseen_groups_apart_with_peers_and_controls(trained, labelled, prefect_server, tmp_path):
    from flows.evaluate import evaluate

    for number, name in enumerate(("new/0_real", "new/1_fake", "old/0_real", "old/1_fake")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for seed in range(20):
            data = generated(20_000 + 100 * number + seed, "PNG") if "fake" in name else encoded(20_000 + 100 * number + seed)
            (tmp_path / "set" / name / f"{seed}.{'png' if 'fake' in name else 'jpg'}").write_bytes(data)
    found = evaluate(
        str(tmp_path / "set"), str(tmp_path / "out"), scorer=str(trained), grid=("jpeg-70", "blur-1"), device="cpu",
        cache=str(tmp_path / "cache"),
    )  # fmt: skip
    assert found.auroc > 0.9
    assert all(control.holds for control in found.controls)
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(record["tables"]) == {
        f"{name}: held-out groups"
        for name in ("mdmf", "mdmf, as stored", "class-token probe", "mean-token probe", "patch vote", "plain mmd")
    }
    assert [row["condition"] for row in record["robustness"]] == ["crawl-0", "stored", "jpeg-70", "blur-1"]
    assert all(row["images"] == 80 for row in record["robustness"])
    assert record["robustness"][0]["auroc"] == record["robustness"][1]["neutral"]
    assert set(record["real_flagged"]) == {"crawl-0", "stored"}
    for plot in ("generators.png", "robustness.png"):
        with Image.open(tmp_path / "out" / plot) as image:
            assert image.size[0] > 300
    assert "| new | 20 | 40 |" in (tmp_path / "out" / "evaluation.md").read_text()


def test_evaluate_fails_on_images_that_training_saw_and_can_leave_them_out(trained, labelled, prefect_server, tmp_path):
    from flows.evaluate import evaluate

    arguments = {"scorer": str(trained), "grid": ("jpeg-90",), "device": "cpu", "cache": str(tmp_path / "cache")}
    with pytest.raises(MdmfError, match=r"96 of 96 tested images were seen.*drop_seen"):
        evaluate(str(labelled), str(tmp_path / "out"), **arguments)
    assert "BROKEN" in (tmp_path / "out" / "evaluation.md").read_text()
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert all(name.endswith("groups seen in training") for name in record["tables"])
    with pytest.raises(LabelError, match="0 usable real images"):
        evaluate(str(labelled), str(tmp_path / "out2"), drop_seen=True, **arguments)


def test_sets_from_which_nothing_honest_follows_are_refused_before_any_pass(labelled, prefect_server, tmp_path):
    from flows.train import train_pfs

    (tmp_path / "m.csv").write_text(
        "label,group,url\n" + "".join(f"real,a,{n}.jpg\n" for n in range(30)) + "".join(f"fake,g,{n}.png\n" for n in range(30))
    )
    with pytest.raises(LabelError, match="1 real sources"):
        train_pfs(str(tmp_path / "m.csv"), str(tmp_path / "out"), cache=str(tmp_path / "cache"), **SMALL)
    assert not (tmp_path / "out").exists()


def test_sources_too_small_for_bank_and_calibration_are_refused_with_what_is_missing(prefect_server, tmp_path):
    from flows.train import train_pfs

    write_labelled(tmp_path / "few", images=18)
    for source in "bc":
        for path in sorted((tmp_path / "few" / "real" / source).iterdir())[1:]:
            path.unlink()
    with pytest.raises(LabelError, match=r"0 images for the bank and 2 for calibration; at least 2 of each are needed"):
        train_pfs(str(tmp_path / "few"), str(tmp_path / "out"), objectives=("mmd-d",), cache=str(tmp_path / "c"), **SMALL)
    assert not (tmp_path / "out").exists()


def test_classes_that_differ_in_format_are_refused(prefect_server, tmp_path):
    from flows.train import train_pfs

    write_labelled(tmp_path / "set", images=7)
    for path in (tmp_path / "set" / "generated").rglob("*.jpg"):
        path.write_bytes(generated(int(path.stem), "PNG"))
    with pytest.raises(LabelError, match=r"every real image is JPEG and every generated one PNG"):
        train_pfs(str(tmp_path / "set"), str(tmp_path / "out"), objectives=("mmd-d",), cache=str(tmp_path / "c"), **SMALL)


def test_a_bare_backbone_has_no_bank(tiny_scorer):
    with pytest.raises(ArtifactError, match="backbone without a bank"):
        load_setup(tiny_scorer, "default", "cpu", 8, 1, None)


@pytest.mark.long
def test_a_killed_run_goes_on_where_it_stopped(trained, labelled, tmp_path):
    command = [
        sys.executable, "-m", "mdmf_cli.main", "train", str(labelled), "--out", str(tmp_path / trained.name), "--device", "cpu",
        "--cache", str(tmp_path / "cache"), "--backbone", "forensic",
        "--views", "1", "--seeds", "2", "--steps", "40", "--points", "50",
        *(part for arm in ARMS for part in ("--objective", arm)),
        *(part for name in STATISTICS for part in ("--statistic", name)),
    ]  # fmt: skip
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (found := list((tmp_path / "cache").rglob("*.safetensors"))):
        assert killed.poll() is None, "the run ended before any token was kept"
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not (tmp_path / trained.name).exists()
    kept = {path: path.stat().st_mtime_ns for path in found}
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    # Top-k is the command line's own default in both: the same settings give the same scorer.
    undisturbed = json.loads((trained / "scorer.json").read_text())["scorer_id"]
    assert json.loads((tmp_path / trained.name / "scorer.json").read_text())["scorer_id"] == undisturbed
