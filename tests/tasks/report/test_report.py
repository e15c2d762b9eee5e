"""What the report shows and where it writes: bounded, the same twice, never over what is not its own."""

import html
import io
import json
import re
import shutil
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pytest
from corpus import corpus as corpus_files
from fabricate import encoded, landed, write_folder, write_shard, write_tar
from PIL import Image

import tasks.report.pictures as pictures
from mdmf import to_pandas as query
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ArtifactError
from tasks.report import galleries
from tasks.report.facts import null_share
from tasks.report.write import NoEvidence, load_evidence_setup, write_report
from tasks.scoring.decoder_pool import decode_pool
from tasks.scoring.loading import load_setup
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

NONE = NoEvidence("not asked for")


@pytest.fixture(scope="module")
def corpus(setup, tiny_scorer, tmp_path_factory) -> Path:
    """Two sources of 28 images and 26, some members excluded."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, seeds in (("alpha", range(28)), ("beta's", range(100, 126))):
        (folder / name).mkdir()
        write_shard(folder / name / "00000.tar", seeds, {"x.html": b"<html>", "s.jpg": encoded(7, width=90, height=60)})
    landed(folder / "w.duckdb", f"{folder}/{{alpha,beta's}}/00000.tar", setup, tiny_scorer)
    return folder / "w.duckdb"


@pytest.fixture(scope="module")
def drawn(corpus, setup, tmp_path_factory) -> Path:
    """The report of the corpus with its maps."""
    return Path(write_report(Warehouse.at(str(corpus)), "t", None, setup, str(tmp_path_factory.mktemp("drawn") / "r"))).parent


def page_of(path: str) -> tuple[str, dict]:
    text = Path(path).read_text()
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def galleries_of(text: str) -> dict[str, list[str]]:
    parts = re.split(r'<section class="gallery" id="(\w+)"', text)[1:]
    return {slug: re.findall(r'data-id="([0-9a-f-]+)"', body) for slug, body in zip(parts[::2], parts[1::2], strict=True)}


def test_every_sql_on_the_page_runs_and_gives_what_the_page_shows(corpus, tmp_path):
    text, _ = page_of(write_report(Warehouse.at(str(corpus)), "t", None, NONE, str(tmp_path / "r")))
    shown = galleries_of(text)
    statements = [html.unescape(sql) for sql in re.findall(r'data-copy="([^"]*)"', text)]
    assert len(statements) >= 11
    results = [query(str(corpus), sql) for sql in statements]
    for slug in ("generated", "line", "review", "real", "random", "unsure"):
        ids = {str(identity) for identity in shown[slug]}
        assert any("image_id" in frame and {str(found) for found in frame["image_id"]} == ids for frame in results), slug
    assert len(shown["generated"]) == 2 * galleries.PER_SOURCE
    scores = query(str(corpus), "SELECT image_id::VARCHAR AS id, score FROM scored").set_index("id")["score"]
    assert [*scores[shown["generated"]]] == sorted(scores[shown["generated"]], reverse=True)
    assert scores[shown["generated"][0]] == scores.max()
    assert scores[shown["real"][0]] == scores.min()


def test_the_same_warehouse_gives_the_same_report(corpus, setup, drawn, tmp_path):
    folders = drawn, Path(write_report(Warehouse.at(str(corpus)), "t", None, setup, str(tmp_path / "r"))).parent
    pages = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", "", (path / "index.html").read_text()) for path in folders]
    assert pages[0] == pages[1]
    files = [sorted(path.name for path in (folder / "pictures").iterdir()) for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) > 150


def test_evidence_is_of_the_image_its_numbers_agree_with_its_row(drawn):
    text, data = page_of(str(drawn / "index.html"))
    assert data["noEvidence"] is None
    for record in data["images"].values():
        found = record["evidence"]
        assert found["witness"] == pytest.approx(record["self_term"] - record["cross_term"], abs=2e-4)
        assert found["rarest"]["rarity"] <= found["commonest"]["rarity"]
        thumbnail = opened(drawn / "pictures" / record["thumbnail"])
        for name in ("witness_map", "density_map"):
            overlay = opened(drawn / "pictures" / found[name])
            assert overlay.size == thumbnail.size
            assert overlay.convert("RGBA").getchannel("A").getextrema() == (0, 255)  # the crop, and what it leaves out
    assert "evidence maps in this report" not in text


def test_images_that_cannot_be_read_again_cost_a_sentence_not_the_report(corpus, setup, tmp_path):
    moved = tmp_path / "copy"
    shutil.copytree(corpus.parent, moved)
    copied = landed(moved / "new.duckdb", f"{moved}/{{alpha,beta's}}/00000.tar", setup)
    write_shard(moved / "alpha" / "00000.tar", range(200, 228))
    (moved / "beta's" / "00000.tar").unlink()
    text, data = page_of(write_report(Warehouse.at(copied), "t", None, setup, str(tmp_path / "r")))
    problems = {record["problem"] for record in data["images"].values()}
    assert any("the shard has changed" in problem for problem in problems)
    assert any("not found" in problem for problem in problems)
    assert all("evidence" not in record for record in data["images"].values())
    assert "no picture: " in text


def test_scorer_and_bank_come_from_the_registry_or_the_page_says_why_not(corpus, setup, tiny_bank, tmp_path):
    assert load_evidence_setup(Warehouse.at(str(corpus)), None, None, "cpu", None).key == setup.key
    missing = load_evidence_setup(Warehouse.at(str(corpus)), None, str(tmp_path / "nowhere"), "cpu", None)
    assert "nowhere" in missing.reason
    text, data = page_of(write_report(Warehouse.at(str(corpus)), "t", None, missing, str(tmp_path / "r")))
    assert "No evidence maps in this report: scorer or bank cannot be loaded" in text
    other = load_setup("default", "default", "cpu", 8, 1, None)
    _, data = page_of(write_report(Warehouse.at(str(corpus)), "t", None, other, str(tmp_path / "r")))
    assert "another bank" in data["noEvidence"]


@pytest.mark.parametrize("foreign", [{"thesis.txt": b"mine"}, {"index.html": b"<title>My page</title>"}])
def test_a_folder_that_is_not_ours_is_refused_and_stays_as_it_is(corpus, tmp_path, foreign):
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="is not a report of mdmf"):
        write_report(Warehouse.at(str(corpus)), "t", None, NONE, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == foreign
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="it is a file"):
        write_report(Warehouse.at(str(corpus)), "t", None, NONE, str(tmp_path / "file"))


def test_a_report_of_any_table_stays_under_30_megabytes():
    scored = 6 * galleries.PER_GALLERY
    left_out = galleries.REASONS * galleries.PER_REASON
    # A record with its evidence is at most 8 kB, its card 2 kB; the figures and the code take well under 1 MB.
    largest = (scored + left_out) * pictures.MAX_THUMBNAIL + scored * (2 * pictures.MAX_MAP + 10_000) + left_out * 2_000 + 1e6
    assert len(galleries.galleries(0.05)) == 6
    assert largest < 30e6


def test_thumbnails_and_maps_of_noise_keep_their_bounds():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    assert len(pictures.thumbnail(noise)) <= pictures.MAX_THUMBNAIL
    each = pictures.Evident(np.random.default_rng(1).random((240, 240)) - 0.5, np.random.default_rng(2).random((240, 240)), {})
    for data in pictures.maps(each, 0.5):
        assert len(data) <= pictures.MAX_MAP
        assert Image.open(io.BytesIO(data)).size[0] >= 8


def test_map_colours_stand_for_their_values():
    witness = np.array([[-0.5, 0.0, 0.5, np.nan]])
    each = pictures.Evident(witness, np.array([[0.001, 0.0001, 1.0, np.nan]]), {})
    shown, rare = (np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[0] for data in pictures.maps(each, 0.5))
    ends = [pictures.colours(name, 3) for name in (pictures.WITNESS, pictures.DENSITY)]
    assert ["#" + bytes(colour[:3]).hex() for colour in shown[:3]] == ends[0]
    assert ["#" + bytes(colour[:3]).hex() for colour in rare[:3]] == [ends[1][0], ends[1][0], ends[1][2]]
    assert shown[3][3] == rare[3][3] == 0


@pytest.mark.long
def test_two_million_rows_of_many_hosts_give_a_bounded_selection(tmp_path):
    path = str(tmp_path / "w.duckdb")
    scorer, bank, calibration, run, shard = (str(uuid.UUID(int=number)) for number in range(1, 6))
    with Warehouse.at(path).connect() as connection:
        migrate(connection)
        connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, now())", [scorer, bank, calibration])
        connection.execute("INSERT INTO calibration_slices VALUES (?, 'photo', 999, 0.001)", [calibration])
        connection.execute(
            "INSERT INTO shards SELECT ?, '/x/00000.tar', 'tar', 'd', 1, 'f', 'complete', NULL, 2000000, 2000000, 0, false, "
            "?, ?, ?, ?, 1, now(), 0, NULL",
            [shard, scorer, bank, calibration, run],
        )
        connection.execute(
            "INSERT INTO images SELECT md5(i::VARCHAR)::UUID, ?, i::VARCHAR, 'd', 'JPEG', 1, 1, 1, 1, 90, 0, NULL, NULL, "
            "'https://host' || CASE WHEN i % 3 = 0 THEN i % 50000 ELSE i % 11 END || '.org/' || i, NULL "
            "FROM range(2000000) r(i)",
            [shard],
        )
        connection.execute(
            "INSERT INTO scores SELECT md5(i::VARCHAR)::UUID, ?, ?, ?, ?, ?, hash(i) / 2e19, 0, 0, 0, 0, 0, 9, "
            "(1 + hash(i) % 1000) / 1000.0, 'photo', i % 10 > 0, now(), 'host' FROM range(2000000) r(i)",
            [shard, scorer, bank, calibration, run],
        )
    with Warehouse.at(path).connect(read_only=True) as connection:
        # DuckDB 2.0 needs over 600 MB for the window that the page shows, and under 400 MB for the heaps.
        connection.execute("SET memory_limit = '500MB'; SET threads = 1; SET temp_directory = ''")
        sources = galleries.Sources.of(connection)
        assert (sources.kind, len(sources.names)) == ("host", galleries.SOURCES)
        chosen = [galleries.select(connection, gallery, sources) for gallery in galleries.galleries(0.05)]
        by_source = {len(ids) for gallery, ids in zip(galleries.galleries(0.05), chosen, strict=True) if gallery.by_source}
        assert by_source == {9 * sources.per_source}
        assert max(map(len, chosen)) <= galleries.PER_GALLERY
        found = galleries.details(connection, chosen[0], sources, 0.05)
        assert set(found) == set(chosen[0])
        assert {row["source"] for row in found.values()} == {*sources.names, galleries.OTHER}


def test_expected_counts_are_those_of_uniform_ranks():
    assert null_share(0.0, 0.05, 349) == pytest.approx(17 / 350)
    assert sum(null_share(low, high, 349) for low, high in ((0, 0.01), (0.01, 0.05), (0.05, 1.0))) == pytest.approx(1.0)


def test_hostile_keys_captions_and_sources_are_text_on_the_page(setup, tmp_path):
    name = "a'; DROP TABLE images; --\"</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    files = {
        f"{name}.jpg": encoded(1),
        f"{name}.txt": b"</title><script>alert(3)</script>\xff",
        f"{'k' * 5000}.jpg": encoded(2),
    }
    files[f"{name}.json"] = json.dumps({"url": "javascript:alert(4)//</script>"}).encode()
    folder = tmp_path / "in <b>"
    folder.mkdir()
    warehouse = landed(tmp_path / "w.duckdb", write_tar(folder / "x.tar", files), setup)
    text, data = page_of(write_report(Warehouse.at(warehouse), "<script>alert(5)</script>", None, setup, str(tmp_path / "r")))
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img src=x" not in text
    assert "<b>" not in re.search(r"<header>.*?</header>", text, re.DOTALL)[0]
    assert name in {record["key"] for record in data["images"].values()}
    assert max(len(record["key"]) for record in data["images"].values()) < 600
    for sql in re.findall(r'data-copy="([^"]*)"', text):
        duckdb.extract_statements(html.unescape(sql))


def test_a_store_that_does_not_answer_is_not_asked_for_every_image(setup, proxied, signed_in, tmp_path):
    write_shard(signed_in / "quiet.tar", range(30))
    warehouse = landed(tmp_path / "w.duckdb", "s3://corpus/quiet.tar", setup)
    proxied.touches = lambda method, path: method == "GET"
    proxied.chances = {"503": 1.0}
    _, data = page_of(write_report(Warehouse.at(warehouse), "t", None, setup, str(tmp_path / "r")))
    assert len(data["images"]) == 30
    assert all(record["problem"] for record in data["images"].values())
    assert "s3://corpus does not answer" in {record["problem"] for record in data["images"].values()}
    assert proxied.injected.total() < 30


def test_no_damaged_image_costs_more_than_its_own_picture(tmp_path):
    files = [entry for entry in corpus_files() if entry.family in ("modes", "strips", "foreign")] + list(corpus_files())[::6]
    write_folder(tmp_path / "all", range(0))
    for number, entry in enumerate(files):
        (tmp_path / "all" / str(number)).write_bytes(entry.data)
        row = {"image_id": number, "kind": "folder", "key": str(number), "locator": None, "bytes": len(entry.data)}
        row |= {"shard_url": f"{tmp_path}/all#slice=0of1", "sha256": sha256_hex(entry.data)}
        seen = pictures.see(row, None, None, decode_pool(1), set())
        assert (seen.thumbnail is None) == (seen.problem is not None), entry.name


@pytest.mark.parametrize("cut", [False, True], ids=["all excluded", "all deferred"])
def test_where_nothing_is_scored_the_page_says_why(setup, tmp_path, cut):
    path = write_tar(tmp_path / "x.tar", {"x.html": b"<html>", "s.jpg": encoded(7, width=40, height=40)})
    if cut:
        path.write_bytes(path.read_bytes()[:700])
    text, data = page_of(
        write_report(Warehouse.at(landed(tmp_path / "w.duckdb", path, setup)), "t", None, setup, str(tmp_path / "r"))
    )
    assert data["images"] == {}
    said = ("Not complete, and why", "x.tar") if cut else ("not_an_image", "too_small", "<b>2</b> excluded")
    assert [words for words in said if words not in text] == []
    for sql in re.findall(r'data-copy="([^"]*)"', text):
        query(str(tmp_path / "w.duckdb"), html.unescape(sql))


def test_an_empty_warehouse_has_no_report(tmp_path):
    with Warehouse.at(str(tmp_path / "w.duckdb")).connect() as connection:
        migrate(connection)
    assert write_report(Warehouse.at(str(tmp_path / "w.duckdb")), "t", None, NONE) is None
    assert not (tmp_path / "w.duckdb.report").exists()
