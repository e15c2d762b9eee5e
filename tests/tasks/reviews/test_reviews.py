"""Verdicts of people: how they enter, what they decide, and what they say of the flags."""

import csv
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from benchmarks.storage.sql import fill
from mdmf_cli.main import app
from mdmf_core.errors import MdmfError
from tasks.banks.left_out import reviewed_generated
from tasks.report.galleries import PER_GALLERY
from tasks.report.write import NoEvidence, write_report
from tasks.reviews.verdicts import import_reviews, next_to_review
from tasks.warehouse.warehouse import Warehouse

HEADER = "image_id,shard_url,key,verdict,reviewer,reason\n"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "corpus"
    fill(folder, 3000)
    return folder / "warehouse.duckdb"


@pytest.fixture
def warehouse(made, tmp_path) -> str:
    """Three thousand scored images, of which nobody has looked at one."""
    return str(shutil.copy(made, tmp_path / "w.duckdb"))


def ask(warehouse: str, sql: str, *parameters: object) -> list[tuple]:
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        return connection.execute(sql, parameters).fetchall()


def some(warehouse: str, decision: str, n: int) -> list[tuple[str, str, str]]:
    """(image_id, shard_url, key) of images that the score alone decides so."""
    sql = f"SELECT image_id::VARCHAR, shard_url, key FROM decisions(0.05) WHERE by_score = '{decision}' ORDER BY key LIMIT {n}"
    return ask(warehouse, sql)


def write(path: Path, *rows: tuple[object, ...], header: str = HEADER) -> str:
    with path.open("w", newline="") as file:
        file.write(header)
        csv.writer(file).writerows(rows)
    return str(path)


def test_verdicts_override_the_score_and_say_so(warehouse, tmp_path):
    flagged, (kept,), (unsure,) = some(warehouse, "flagged", 2), some(warehouse, "kept", 1), some(warehouse, "unsure", 1)
    before = dict(ask(warehouse, "SELECT decision, count(*) FROM decisions(0.05) GROUP BY 1"))
    rows = [(*flagged[0], "Real", "", ""), (*flagged[1], "unsure", "", ""), (*kept, "generated", "", "six fingers")]
    rows.append((*unsure, "generated", "ben", ""))
    done = import_reviews(Warehouse.at(warehouse), write(tmp_path / "v.csv", *rows), "ana")
    assert (done.new, done.known, done.blank) == (4, 0, 0)
    found = {
        str(image): rest
        for image, *rest in ask(
            warehouse,
            "SELECT image_id, by_score, reviewed, decided_by, decision FROM decided(0.05) WHERE decided_by = 'review'",
        )
    }
    assert found == {
        flagged[0][0]: ["flagged", "real", "review", "kept"],
        flagged[1][0]: ["flagged", "unsure", "review", "unsure"],
        kept[0]: ["kept", "generated", "review", "flagged"],
        unsure[0]: ["unsure", "generated", "review", "flagged"],
    }
    after = dict(ask(warehouse, "SELECT decision, count(*) FROM decisions(0.05) GROUP BY 1"))
    assert after == {"flagged": before["flagged"], "kept": before["kept"], "unsure": before["unsure"]}
    for decision, count in after.items():
        assert ask(warehouse, f"SELECT count(*) FROM {decision}(0.05)") == [(count,)]
    assert ask(warehouse, "SELECT reviewed, decided_by FROM flagged(0.05) WHERE key = ?", kept[2]) == [("generated", "review")]
    assert ask(warehouse, "SELECT reviewer, reason FROM reviewed WHERE key = ?", kept[2]) == [("ana", "six fingers")]
    assert ask(warehouse, "SELECT reviewer FROM reviewed WHERE key = ?", unsure[2]) == [("ben",)]


def test_the_newest_verdict_counts_and_history_stays(warehouse, tmp_path):
    ((image, url, key),) = some(warehouse, "flagged", 1)
    first = write(tmp_path / "1.csv", (image, url, key, "generated", "ana", ""))
    assert import_reviews(Warehouse.at(warehouse), first).new == 1
    again = import_reviews(Warehouse.at(warehouse), first)
    assert (again.new, again.known) == (0, 1)
    import_reviews(
        Warehouse.at(warehouse), write(tmp_path / "2.csv", (image, url, key, "real", "ben", "the photographer's site"))
    )
    assert import_reviews(Warehouse.at(warehouse), first).new == 0  # an old file again does not bring the old verdict back
    assert ask(warehouse, "SELECT decision FROM decided(0.05) WHERE image_id = ?", image) == [("kept",)]
    header = "image_id,verdict,reviewer,reviewed_at\n"
    import_reviews(
        Warehouse.at(warehouse), write(tmp_path / "3.csv", (image, "unsure", "eva", "2020-01-01T00:00:00"), header=header)
    )
    assert ask(warehouse, "SELECT decision FROM decided(0.05) WHERE image_id = ?", image) == [("kept",)]  # said long before
    import_reviews(
        Warehouse.at(warehouse), write(tmp_path / "4.csv", (image, url, key, "generated", "ana", "on second thoughts"))
    )
    assert ask(warehouse, "SELECT decision FROM decided(0.05) WHERE image_id = ?", image) == [("flagged",)]
    assert (
        import_reviews(Warehouse.at(warehouse), first).new == 0
    )  # known by its file, although ana has said something else since
    said = ask(warehouse, "SELECT verdict, reviewer FROM reviews ORDER BY imported_at")
    assert said == [("generated", "ana"), ("real", "ben"), ("unsure", "eva"), ("generated", "ana")]


def test_a_verdict_goes_with_the_bytes_to_other_shards(warehouse, tmp_path):
    (one, url, key), (other, *_) = some(warehouse, "flagged", 2)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute(
            "UPDATE images SET sha256 = (SELECT sha256 FROM images WHERE image_id = ?) WHERE image_id = ?", [one, other]
        )
    import_reviews(Warehouse.at(warehouse), write(tmp_path / "v.csv", (one, url, key, "real", "ana", "")))
    assert ask(warehouse, "SELECT decision, decided_by FROM decided(0.05) WHERE image_id = ?", other) == [("kept", "review")]
    with pytest.raises(MdmfError, match="lines 2 and 3: real and generated for the same image"):
        import_reviews(
            Warehouse.at(warehouse),
            write(tmp_path / "c.csv", (one, "", "", "real", "a", ""), (other, "", "", "generated", "a", "")),
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are none"),
        ("image_id;verdict\n", "image_id and verdict are needed"),
        ("image_id,verdict,mood\nX,real,good\n", "columns are image_id, verdict, mood;"),
        ("image_id,verdict,verdict\nX,real,real\n", "each once"),
        (HEADER + "X,,,fake,ana,\n", "line 2: verdict 'fake' is none of generated, real, unsure"),
        (HEADER + "X,,,real,,\n", "line 2: no reviewer"),
        (HEADER + "X,,,real\n", "line 2: not 6 fields"),
        (HEADER + "X,,,real,ana,,extra\n", "line 2: not 6 fields"),
        (HEADER + 'X,,,"real\n', "not CSV after line 1"),
        (HEADER + "nonsense,,,real,ana,\n", "line 2: the warehouse has no image 'nonsense'"),
        (HEADER + "00000000-0000-0000-0000-000000000009,,,real,ana,\n", "line 2: the warehouse has no image"),
        (HEADER + "X,,other,real,ana,\n", "line 2: image .* is '0.*' of s3://bucket.*, not 'other' of s3://"),
        (HEADER + "X,s3://b/9.tar,,real,ana,\n", "line 2: image .* not '0.*' of s3://b/9.tar"),
        (HEADER + "X,,,real,ana,\nX,,,real,ana,\n", "lines 2 and 3: the same image twice"),
        (HEADER + "X,,,real,ana,\nX,,,unsure,ben,\n", "lines 2 and 3: real and unsure for the same image"),
        (
            "image_id,verdict,reviewer,reviewed_at\nX,real,ana,2999-01-01\n",
            "line 2: reviewed_at '2999-01-01' lies in the future",
        ),
        ("image_id,verdict,reviewer,reviewed_at\nX,real,ana,yesterday\n", "line 2: Invalid isoformat string"),
        (HEADER + "X,,,real,\xff,\n", "can't decode byte"),
    ],
)
def test_files_that_cannot_be_used_are_refused_whole(warehouse, tmp_path, text, message):
    good, bad = some(warehouse, "kept", 2)
    if text.startswith(HEADER):  # a good line beside the bad one
        text += f"{good[0]},,,real,ana,\n"
    (tmp_path / "v.csv").write_bytes(text.replace("X", bad[0]).encode("latin-1"))
    with pytest.raises(MdmfError, match=message):
        import_reviews(Warehouse.at(warehouse), str(tmp_path / "v.csv"))
    assert ask(warehouse, "SELECT count(*) FROM reviews") == [(0,)]


def test_many_problems_are_counted_and_a_missing_file_or_warehouse_named(warehouse, tmp_path):
    path = write(tmp_path / "v.csv", *[(f"x{at}", "", "", "real", "ana", "") for at in range(30)])
    with pytest.raises(MdmfError, match=r"line 21: .*; and 10 more; nothing was imported"):
        import_reviews(Warehouse.at(warehouse), path)
    with pytest.raises(MdmfError, match="not found"):
        import_reviews(Warehouse.at(warehouse), str(tmp_path / "none.csv"))
    with pytest.raises(MdmfError, match="no warehouse at"):
        import_reviews(Warehouse.at(str(tmp_path / "none.duckdb")), path)
    assert not (tmp_path / "none.duckdb").exists()


def looked_at(connection, where: str, truth: str) -> None:
    """Verdicts on flagged images that ``where`` names by their place."""
    connection.execute(
        f"INSERT INTO reviews SELECT image_id, sha256, shard_id, key, {truth}, 'ana', NULL, now(), now(), '' "
        f"FROM review_order(0.05) JOIN images USING (image_id) WHERE {where}"
    )


def test_the_interval_is_wilsons_and_the_sample_ends_at_its_first_gap(warehouse):
    truth = "CASE WHEN place % 5 = 0 THEN 'real' WHEN place % 7 = 0 THEN 'unsure' ELSE 'generated' END"
    with Warehouse.at(warehouse).connect() as connection:
        flagged = connection.execute("SELECT count(*) FROM flagged(0.05)").fetchall()[0][0]
        assert connection.execute("FROM precision_estimate(0.05)").fetchall() == [
            ("random sample", flagged, 0, 0, 0, 0, None, 0, 1),
            ("all reviewed", flagged, 0, 0, 0, 0, None, 0, 1),
        ]
        looked_at(connection, "place <= 80 AND place <> 61", truth)
        sample, everything = connection.execute("FROM precision_estimate(0.05)").fetchall()
    for row, last in ((sample, 60), (everything, 80)):
        places = [place for place in range(1, last + 1) if place != 61]
        real = sum(place % 5 == 0 for place in places)
        undecided = sum(place % 5 != 0 and place % 7 == 0 for place in places)
        generated = len(places) - real - undecided
        assert row[1:6] == (flagged, len(places), generated, real, undecided)
        expected = binomtest(generated, generated + real).proportion_ci(0.95, method="wilson")
        assert row[6:] == pytest.approx((generated / (generated + real), expected.low, expected.high), abs=1e-6)


def test_the_interval_covers_the_true_precision_as_often_as_it_says_and_chosen_images_do_not_sway_it(warehouse):
    random = np.random.default_rng(0)
    covered, misled = 0, 0
    with Warehouse.at(warehouse).connect() as connection:
        flagged = connection.execute("SELECT count(*) FROM flagged(0.05)").fetchall()[0][0]
        for _ in range(200):
            made = random.permutation(flagged) < 0.8 * flagged
            connection.execute("BEGIN")
            connection.execute("SET VARIABLE made = ?", [made.tolist()])
            # The first forty of the order, and then only what looks generated.
            truth = "CASE WHEN getvariable('made')[place] THEN 'generated' ELSE 'real' END"
            looked_at(connection, "place <= 40 OR (place > 41 AND getvariable('made')[place])", truth)
            (*_, low, high), (*_, chosen_low, _) = connection.execute("FROM precision_estimate(0.05)").fetchall()
            connection.execute("ROLLBACK")
            covered += low <= made.mean() <= high
            misled += chosen_low > made.mean()
    assert 0.92 <= covered / 200 <= 0.995
    assert misled > 190  # which is why the two are told apart


def test_the_sample_is_the_same_for_everybody_random_and_moves_on(warehouse, tmp_path):
    first = next_to_review(Warehouse.at(warehouse), 0.05, 20)
    assert first == next_to_review(Warehouse.at(warehouse), 0.05, 40)[:20]
    assert [row["place"] for row in first] == list(range(1, 21))
    places, scores = zip(
        *ask(warehouse, "SELECT place, score FROM review_order(0.05) JOIN scored USING (image_id)"), strict=True
    )
    assert abs(np.corrcoef(places, scores)[0, 1]) < 0.15
    rows = [(row["image_id"], row["shard_url"], row["key"], "generated", "ana", "") for row in first[:5]]
    import_reviews(Warehouse.at(warehouse), write(tmp_path / "v.csv", *rows))
    assert [row["place"] for row in next_to_review(Warehouse.at(warehouse), 0.05, 3)] == [6, 7, 8]
    narrow = [row["image_id"] for row in next_to_review(Warehouse.at(warehouse), 0.01, 1000)]
    wide = [row["image_id"] for row in next_to_review(Warehouse.at(warehouse), 0.05, 1000)]
    assert [image for image in wide if image in set(narrow)] == narrow  # a stricter budget keeps the order


def mdmf(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_from_sample_to_precision_on_the_command_line(warehouse, tmp_path):
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("UPDATE images SET caption = '=cmd()', url = NULL")
    sample, at = tmp_path / "sample.csv", ("--warehouse", warehouse)
    status, text = mdmf("review", "sample", sample, "--budget", 0.05, "--n", 30, *at)
    assert (status, "30 images in" in text) == (0, True), text
    status, text = mdmf("review", "sample", sample, *at)
    assert (status, "is there already" in text) == (1, True), text
    with sample.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["caption"] for row in rows} == {"'=cmd()"}  # no formula in anybody's spreadsheet
    for row, verdict in zip(rows, itertools.cycle(["generated", "generated", "real"]), strict=False):
        row["verdict"] = verdict
    rows[-1]["verdict"] = ""
    with sample.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet saves it
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    status, text = mdmf("review", "import", sample, "--reviewer", "ana", *at)
    assert (status, text) == (0, "29 verdicts entered, 0 known before, 1 lines without one\n")
    status, text = mdmf("review", "precision", "--budget", 0.05, *at)
    assert status == 0
    assert "random sample" in text
    assert f"20 generated, 9 real, 0 undecided: precision {20 / 29:.3f} [" in text
    status, text = mdmf("review", "list", *at)
    assert (status, text.count(" ana ")) == (0, 29), text
    status, text = mdmf("review", "import", tmp_path / "none.csv", *at)
    assert (status, "error:" in text) == (1, True)


def test_what_is_reviewed_as_generated_is_known_by_its_bytes(warehouse, tmp_path):
    (one, two) = some(warehouse, "kept", 2)
    import_reviews(
        Warehouse.at(warehouse), write(tmp_path / "v.csv", (*one, "generated", "ana", ""), (*two, "real", "ana", ""))
    )
    ((sha256,),) = ask(warehouse, "SELECT sha256 FROM images WHERE image_id = ?", one[0])
    assert reviewed_generated(Warehouse.at(warehouse)) == {sha256}
    assert reviewed_generated(Warehouse.at(str(tmp_path / "none.duckdb"))) == frozenset()
    with Warehouse.at(str(tmp_path / "old.duckdb")).connect() as connection:
        connection.execute("CREATE TABLE migrations (name VARCHAR)")
    assert reviewed_generated(Warehouse.at(str(tmp_path / "old.duckdb"))) == frozenset()


def test_the_report_shows_the_next_to_review_and_what_reviewers_found(warehouse, tmp_path):
    with Warehouse.at(
        warehouse
    ).connect() as connection:  # no store of theirs answers; a path that is not there is not asked twice
        connection.execute("UPDATE shards SET url = replace(url, 's3:/', '/nowhere')")
    order = [str(identity) for (identity,) in ask(warehouse, "SELECT image_id FROM review_order(0.05) ORDER BY place")]
    ids, text = reviewed_report(warehouse, tmp_path)
    assert ids == order[:PER_GALLERY]
    assert "Reviewers" not in text
    assert "If the real images of this corpus score like the calibration's, " in text
    verdicts = [(identity, "generated" if place % 4 else "real") for place, identity in enumerate(order[:40])]
    verdicts.append((order[60], "real"))
    import_reviews(Warehouse.at(warehouse), write(tmp_path / "v.csv", *verdicts, header="image_id,verdict\n"), "ana")
    ids, text = reviewed_report(warehouse, tmp_path)
    assert ids == [*order[40:60], *order[61 : PER_GALLERY + 41]]
    exact = binomtest(30, 40).proportion_ci(method="wilson")
    assert f"random sample, 40 of the {len(order)} that the score flags at 5 %: 30 generated, 10 real, 0 undecided" in text
    assert f"So {100 * exact.low:.0f} % to {100 * exact.high:.0f} % of all these flags are generated" in text
    assert f"chose to look at 41 of the {len(order)} flagged: 30 generated, 11 real" in text


def reviewed_report(warehouse: str, folder: Path) -> tuple[list[str], str]:
    """(image ids to review, in the page's order; the page with plain spaces)."""
    page = write_report(Warehouse.at(warehouse), "t", None, NoEvidence("not asked for"), str(folder / "report"))
    text = Path(page or "").read_text().replace("\u202f", " ").replace("<b>", "").replace("</b>", "")
    gallery = re.search(r'<section class="gallery" id="review".*?</section>', text, re.DOTALL)
    assert gallery
    return re.findall(r'data-id="([0-9a-f-]+)"', gallery[0]), text
