"""The report in a real browser: from disk and over http, without errors or requests, by mouse, keyboard and without script."""

import csv
import functools
import http.server
import json
import threading

import pytest
from browsing import ARTIFACTS, HOSTILE, cards, url_of, wait_for
from playwright.sync_api import expect

from mdmf import to_pandas as query
from tasks.report.write import NoEvidence, write_report
from tasks.warehouse.warehouse import Warehouse


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_opens_from_disk_and_is_readable_at_every_width(corpus, opened, width, scheme):
    page = opened(url_of(corpus), viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.title() == "MDMF report: three sources"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"overview-{width}-{scheme}.png")
    page.locator("#generated").scroll_into_view_if_needed()
    image = page.locator("#generated img").first
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("found => found.naturalWidth") > 100
    page.evaluate("document.querySelector('#generated').scrollIntoView({behavior: 'instant'})")
    wait_for(page, "[...document.querySelectorAll('#generated img')].slice(0, 6).every(image => image.naturalWidth)")
    page.screenshot(path=ARTIFACTS / f"gallery-{width}-{scheme}.png")
    page.locator("#generated .open").first.click()
    assert page.locator("#panel").evaluate("panel => panel.scrollWidth <= innerWidth && panel.open")
    page.screenshot(path=ARTIFACTS / f"panel-{width}-{scheme}.png")


def test_it_opens_over_http_too(corpus, opened):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    class Patient(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # the page asks for all its pictures at once

    server = Patient(("127.0.0.1", 0), functools.partial(Quiet, directory=str(corpus[0].parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = opened(f"http://127.0.0.1:{server.server_port}/report/index.html")
        page.locator("#generated .open").first.click()
        wait_for(page, "document.querySelector('[data-frame=witness] .map').naturalWidth > 0")
        page.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_filters_by_source_range_and_text_leave_what_the_warehouse_says(corpus, opened):
    page = opened(url_of(corpus))
    scored = query(str(corpus[1]), "SELECT image_id::VARCHAR AS id, p_value, shard_url FROM scored").set_index("id")
    page.locator("#random .more").click()
    everything = len(cards(page, "#random"))
    page.locator("[name=source]").select_option(f"{corpus[0].parent}/alpha")
    alpha = cards(page, "#random")
    assert 0 < len(alpha) < everything
    assert all("/alpha/" in scored.loc[identity, "shard_url"] for identity in alpha)
    page.locator("[name=source]").select_option("")
    page.fill("[name=low]", "0.05")
    page.fill("[name=high]", "0.2")
    ranged = cards(page, "main")
    assert ranged
    assert all(0.05 <= scored.loc[identity, "p_value"] <= 0.2 for identity in ranged)
    shown = page.locator("#shown").inner_text()
    assert shown.startswith(f"{len(set(ranged))} of ")
    page.fill("[name=text]", "no such caption")
    assert cards(page, "main") == []
    expect(page.locator("#generated .empty")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    assert len(cards(page, "#random")) == everything
    page.reload()
    assert len(cards(page, "#random")) == 24 < everything


def test_the_panel_shows_maps_terms_lineage_and_sql_and_goes_by_keyboard(corpus, opened):
    page = opened(url_of(corpus))
    first, second = cards(page, "#generated")[:2]
    page.locator("#generated .open").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('.card').dataset.id") == second
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_be_visible()
    row = query(str(corpus[1]), f"SELECT * FROM scored WHERE image_id = '{first}'").iloc[0]
    facts = page.locator("#facts").inner_text()
    for value in (row["sha256"], row["shard_url"], f"{row['p_value']:.4}", first, str(row["run_id"])):
        assert str(value) in facts
    digests = query(
        str(corpus[1]),
        "SELECT digest FROM scorers UNION ALL SELECT digest FROM banks UNION ALL SELECT digest FROM calibrations",
    )
    assert all(digest in facts for digest in digests["digest"])
    for frame in ("witness", "density"):
        wait_for(page, f"document.querySelector('[data-frame={frame}] .map').naturalWidth > 20")
    assert "kernel units" in page.locator("[data-frame=witness]").inner_text()
    assert "log scale" in page.locator("[data-frame=density]").inner_text()
    assert page.locator("#nearest tbody tr").count() == 10
    page.keyboard.press("3")
    assert [page.locator(f"[data-frame={name}]").is_visible() for name in ("image", "witness", "density")] == [
        False,
        True,
        False,
    ]
    page.keyboard.press("1")
    box, frame = page.locator(".box").bounding_box(), page.locator("[data-frame=image] .frame").bounding_box()
    assert frame["x"] - 3 <= box["x"]
    assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 3
    sql = page.locator("#facts [data-copy]").get_attribute("data-copy")
    assert query(str(corpus[1]), sql)["key"].tolist() == [row["key"]]
    page.keyboard.press("ArrowRight")
    assert second in page.locator("#facts").inner_text()
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('.card').dataset.id") == second


def test_copying_puts_the_sql_on_the_clipboard(corpus, opened):
    page = opened(url_of(corpus), permissions=["clipboard-read", "clipboard-write"])
    page.locator("#real details.sql summary").click()
    page.locator("#real .copy").click()
    expect(page.locator("#real .copy")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert {str(found) for found in query(str(corpus[1]), copied)["image_id"]} >= set(cards(page, "#real"))


def test_verdicts_are_marked_by_keys_kept_and_downloaded(corpus, opened, tmp_path):
    page = opened(url_of(corpus))
    page.fill("[name=reviewer]", 'Ada, "the" second')
    chosen = cards(page, "#generated")[:3]
    page.locator("#generated .open").first.click()
    for key in "gru":
        page.keyboard.press(key)
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.fill("#reason", "six, fingers; g r u")
    page.locator("#close").click()
    assert page.locator(f"#generated [data-id='{chosen[0]}']").get_attribute("data-verdict") == "generated"
    page.reload()
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(tmp_path / "verdicts.csv")
    with (tmp_path / "verdicts.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["image_id"], row["verdict"]) for row in found] == list(
        zip(chosen, ("generated", "real", "unsure"), strict=True)
    )
    scored = query(str(corpus[1]), "SELECT image_id::VARCHAR AS id, key, shard_url FROM scored").set_index("id")
    assert [(row["shard_url"], row["key"]) for row in found] == [
        (scored.loc[identity, "shard_url"], scored.loc[identity, "key"]) for identity in chosen
    ]
    assert {row["reviewer"] for row in found} == {'Ada, "the" second'}
    assert found[2]["reason"] == "six, fingers; g r u"
    page.locator("#generated .open").first.click()
    page.keyboard.press("g")  # again: taken back
    page.locator("#close").click()
    expect(page.locator("#download")).to_have_text("Download verdicts (2)")


def test_a_whole_gallery_is_judged_by_keys(corpus, opened):
    page = opened(url_of(corpus))
    shown = cards(page, "#random")
    count = page.locator("#random .card[data-id]").count()
    assert len(shown) == 24 < count  # the others wait behind "Show all"
    page.select_option("[name=marked]", "no")  # a mark ends neither the walk nor the panel
    page.locator("#random .open").first.click()
    for _ in range(count - 1):
        page.keyboard.press("g")
        page.keyboard.press("ArrowRight")
    expect(page.locator("#next")).to_be_disabled()
    page.keyboard.press("g")  # "next" had the focus
    page.keyboard.press("Escape")
    expect(page.locator("#download")).to_have_text(f"Download verdicts ({count})")


def test_hostile_names_stay_text(corpus, opened):
    page = opened(url_of(corpus))
    page.locator("[name=source]").select_option(f"{corpus[0].parent}/beta")
    assert len(cards(page, "#random")) == 3
    for link in page.locator("#random .card:not([hidden]) .open").all():
        link.click()
        wait_for(page, "document.querySelector('[data-frame=image] img').naturalWidth > 0")
        page.locator("#close").click()
    assert page.title() == "MDMF report: three sources"
    keys = {record["key"] for record in json.loads(page.locator("#data").text_content())["images"].values()}
    assert HOSTILE in keys
    assert page.locator("b[onclick], img[onerror], main script").count() == 0
    assert "not_an_image" in page.locator("#excluded").inner_text()


def test_without_script_the_galleries_are_there(corpus, opened):
    page = opened(url_of(corpus), java_script_enabled=False)
    assert page.locator("#generated .card").count() > 24
    assert page.locator("#filters").is_hidden()
    page.locator("#generated .open").first.click()
    assert page.url.endswith(".jpg")


def test_the_theme_can_be_switched_and_is_remembered(corpus, opened):
    page = opened(url_of(corpus), color_scheme="light")
    page.locator("#theme").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 22)"


def test_a_report_without_scorer_says_so_in_place_of_the_maps(corpus, opened, tmp_path):
    page = opened(
        "file://"
        + write_report(Warehouse.at(str(corpus[1])), "t", None, NoEvidence("the bank is gone"), str(tmp_path / "report"))
    )
    expect(page.locator(".notice").first).to_contain_text("the bank is gone")
    page.locator("#generated .open").first.click()
    expect(page.locator("#missing")).to_contain_text("No evidence map: the bank is gone")
    assert not page.locator("[data-frame=witness]").is_visible()
