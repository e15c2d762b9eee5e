"""A file that ends its decoder, or never lets it end, costs the report, training, evaluation and banks that one image."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from fabricate import encoded, generated, landed, write_tar
from hostile_decoders import ARGV

from mdmf_core.digests import sha256_hex
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.training.conditions import crops_under
from tasks.banks import real_images
from tasks.report import pictures
from tasks.report.write import write_report
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.loading import load_scorer
from tasks.training import token_cache
from tasks.training.evaluation import EvaluateSettings, evaluate
from tasks.training.labelled_sets import list_labelled
from tasks.training.token_cache import TokenCache, chunked
from tasks.warehouse.warehouse import Warehouse

# Trailing bytes are nothing to the real decoder, so that these images are scored before the hostile one meets them.
FATAL = {"crash": encoded(901) + b"CRASH", "hang": encoded(902) + b"HANG"}
REASONS = ["decoder_crashed", "decoder_timeout"]


@pytest.fixture
def hostile(monkeypatch) -> Iterator[DecodePool]:
    """The pool of everything that decodes, with decoders that crash or hang where an image says so."""
    with DecodePool(2, ImageLimits(max_seconds=5), ARGV) as pool:
        for module in (pictures, token_cache, real_images):
            monkeypatch.setattr(module, "decode_pool", lambda *workers: pool)
        yield pool


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """20 images and more of each class, with the two fatal ones among the real."""
    folder = tmp_path / "labelled"
    for place in ("real/web", "generated/gan"):
        (folder / place).mkdir(parents=True)
    for seed in range(21):
        (folder / f"real/web/{seed}.jpg").write_bytes(encoded(seed, width=160, height=128))
        (folder / f"generated/gan/{seed}.jpg").write_bytes(generated(seed))
    for name, data in FATAL.items():
        (folder / f"real/web/{name}.jpg").write_bytes(data)
    return folder


def test_the_report_keeps_the_card_and_says_why_it_has_no_picture(setup, tiny_scorer, hostile, tmp_path):
    files = {f"{seed}.jpg": encoded(seed) for seed in range(3)} | {f"{name}.jpg": data for name, data in FATAL.items()}
    warehouse = landed(tmp_path / "w.duckdb", write_tar(tmp_path / "x.tar", files), setup, tiny_scorer)
    page = Path(write_report(Warehouse.at(warehouse), "t", None, setup, str(tmp_path / "r"))).read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    shown = {record["key"]: (record["thumbnail"] is not None, record["problem"]) for record in data["images"].values()}
    assert shown.pop("crash") == (False, "decoder_crashed: signal SIGSEGV; again: signal SIGSEGV")
    assert shown.pop("hang") == (False, "decoder_timeout: longer than 5 s")
    assert shown == {str(seed): (True, None) for seed in range(3)}


def test_the_report_asks_no_decoder_about_an_image_that_ended_one_before(hostile):
    row = {"image_id": "1", "shard_url": "/nowhere.tar", "reason": "decoder_timeout"}
    assert "the report does not wait" in pictures.see(row, None, None, hostile, set()).problem
    assert hostile._seats.qsize() == 2


def test_the_token_cache_excludes_the_image_once_for_all_conditions(labelled, hostile, tmp_path):
    chunks = chunked(list_labelled(str(labelled), "train", None, None))
    cache = TokenCache(str(tmp_path / "cache"), load_scorer("forensic", "cpu"))
    asked: list[str] = []
    answer = hostile.decode
    hostile.decode = lambda data, plan: (asked.append(data[-5:].decode("latin1")), answer(data, plan))[1]
    for chunk in chunks:
        cache.fill(chunk, ["stored", "crawl-0"], None)
    for condition in ("stored", "crawl-0"):
        facts = [entry for chunk in cache.read(chunks, condition) for entry in chunk.facts]
        assert {Path(entry.url).stem: entry.reason for entry in facts if entry.reason} == dict(zip(FATAL, REASONS, strict=True))
    assert sum(end in ("CRASH", "\xd9HANG") for end in asked) == 2  # the second condition asked no decoder again


def test_an_evaluation_lists_the_image_with_its_reason(labelled, hostile, tmp_path):
    settings = EvaluateSettings(
        source=str(labelled), out=str(tmp_path / "out"), scorer="default", bank="default", part="val", grid=("jpeg-70",),
        max_per_group=None, drop_seen=False, cache=str(tmp_path / "cache"), device="cpu", storage_block=None,
    )  # fmt: skip
    images = settings.images()
    for chunk in chunked(images):
        settings.token_cache().fill(chunk, settings.conditions(), None)
    assert evaluate(settings, images).excluded == 2
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {Path(entry["url"]).stem: entry["reason"] for entry in record["excluded"]} == dict(zip(FATAL, REASONS, strict=True))


def test_a_bank_is_built_without_the_image(labelled, hostile):
    with real_images.spooled() as append:
        real, excluded = real_images.collect(
            str(labelled / "real" / "web"), load_scorer("default", "cpu"), 100, "photo", None, append
        )
    assert (len(real), excluded) == (21, 2)
    assert not {image.member.key for image in real} & {"crash.jpg", "hang.jpg"}


def test_tokens_are_those_of_pixels_decoded_in_this_process(labelled, tmp_path):
    """Bit for bit: the pipe between decoder and cache changes nothing."""
    scorer = load_scorer("forensic", "cpu")
    (chunk,) = [chunk for chunk in chunked(list_labelled(str(labelled), "train", None, None)) if not chunk[0].generated]
    conditions = ["stored", "jpeg-90", "crawl-0"]
    through_decoders = TokenCache(str(tmp_path / "there"), scorer)
    through_decoders.fill(chunk, conditions, None)
    for condition in conditions:
        made = []
        for image in chunk:
            data = Path(image.url).read_bytes()
            here = decode(data, ImageLimits())
            sha256, known = sha256_hex(data), asdict(here.facts)
            del known["border_px"]
            facts = token_cache.ImageFacts(image.url, False, "web", image.domain, image.pair, sha256, **known)
            made.append((facts, crops_under(condition, here.pixels, sha256, scorer.crops)))
        in_process = TokenCache(str(tmp_path / "here"), scorer)
        in_process._save(in_process.path(chunk, condition), made)
        (one,), (two,) = (list(cache.read([chunk], condition)) for cache in (through_decoders, in_process))
        assert one.facts == two.facts
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.counts, two.counts)
        assert torch.equal(one.embeddings, two.embeddings)
