"""The token cache: one file per chunk and condition, resumed, invalidated by what it depends on."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fabricate import encoded

from mdmf_core.errors import LabelError, SourceError
from mdmf_core.scoring.scorer_files import backbone_scorer
from mdmf_core.training.labelled import LabelledImage
from tasks.scoring.loading import load_scorer
from tasks.training.labelled_sets import list_labelled, read_listing, write_listing
from tasks.training.token_cache import TokenCache, chunked

CONDITIONS = ["stored", "jpeg-90", "crawl-0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, seeds in (("real/web", range(3)), ("generated/gan", range(10, 12))):
        (tmp_path / place).mkdir(parents=True)
        for seed in seeds:
            (tmp_path / place / f"{seed}.jpg").write_bytes(encoded(seed, width=160, height=128))
    (tmp_path / "real/web/cut.jpg").write_bytes(encoded(5)[:900])
    return tmp_path


def cache_of(folder: Path) -> TokenCache:
    return TokenCache(str(folder / "cache"), load_scorer("forensic", "cpu"))


def test_tokens_of_a_set_and_the_images_that_have_none(folder):
    chunks = chunked(list_labelled(str(folder), "val", None, None))
    cache = cache_of(folder)
    assert {chunk[0].generated: cache.fill(chunk, CONDITIONS, None) for chunk in chunks} == {True: 3, False: 3}
    found = {name: list(cache.read(chunks, name)) for name in CONDITIONS}
    facts = [f for chunk in found["stored"] for f in chunk.facts]
    assert {f.group for f in facts} == {"web", "gan"}
    assert [f.reason for f in facts if f.reason] == ["truncated"]
    for chunks_found in found.values():
        for chunk in chunks_found:
            assert len(chunk.tokens) == int(chunk.counts.sum()) == len(chunk.embeddings)
            assert bool(torch.isfinite(chunk.tokens.float()).all())


def test_a_full_cache_computes_nothing_and_a_torn_one_only_what_is_missing(folder):
    chunks = chunked(list_labelled(str(folder), "val", None, None))
    cache = cache_of(folder)
    for chunk in chunks:
        cache.fill(chunk, CONDITIONS, None)
    assert [cache.fill(chunk, CONDITIONS, None) for chunk in chunks] == [0, 0]
    os.remove(cache.path(chunks[0], "jpeg-90"))
    assert [cache.fill(chunk, CONDITIONS, None) for chunk in chunks] == [1, 0]


def test_groups_and_domains_are_those_of_the_listing_not_of_the_cache(folder):
    chunk = chunked(list_labelled(str(folder), "val", None, None))[0]
    cache = cache_of(folder)
    cache.fill(chunk, ["stored"], None)
    renamed = tuple(replace(image, group="other", domain="art", pair="cats") for image in chunk)
    assert cache.fill(renamed, ["stored"], None) == 0
    assert {(f.group, f.domain, f.pair) for f in next(cache.read([renamed], "stored")).facts} == {("other", "art", "cats")}


def test_tokens_depend_on_how_the_backbone_computes(folder):
    chunk = chunked(list_labelled(str(folder), "val", None, None))[0]
    other = TokenCache(str(folder / "cache"), backbone_scorer("forensic", torch.device("cpu"), torch.bfloat16))
    assert other.path(chunk, "crawl-0") != cache_of(folder).path(chunk, "crawl-0")


def test_a_new_group_leaves_the_chunks_of_the_others(folder):
    before = chunked(list_labelled(str(folder), "val", None, None))
    (folder / "generated/new").mkdir()
    (folder / "generated/new/1.jpg").write_bytes(encoded(99))
    after = chunked(list_labelled(str(folder), "val", None, None))
    assert set(before) < set(after)


def test_manifests(folder):
    manifest = folder / "m.csv"
    manifest.write_text(
        "label,set,file,fold,domain,pair\nreal,web,real/web/0.jpg,1,face,portraits\nfake,gan,generated/gan/10.jpg,,,\n"
    )
    real, made = list_labelled(str(manifest), "val", None, None)
    assert real == LabelledImage(f"{folder}/real/web/0.jpg", False, "web", 0, 1, "face", "portraits")
    assert (made.generated, made.fold, made.domain, made.pair) == (True, None, "photo", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,file\nreal,a.jpg\n", "needs the columns label, .*group or set"),
        ("label,group,url\nmaybe,a,a.jpg\n", "label 'maybe' of 'a.jpg'"),
        ("label,group,url\n", "no labelled images"),
    ],
)
def test_manifests_that_say_nothing_are_refused(folder, text, message):
    (folder / "m.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        list_labelled(str(folder / "m.csv"), "val", None, None)


def test_a_folder_in_no_layout_is_refused_and_a_missing_one_too(folder):
    with pytest.raises(LabelError, match="no labelled images"):
        list_labelled(str(folder / "real" / "web"), "val", None, None)
    with pytest.raises((LabelError, SourceError)):
        list_labelled(str(folder / "nowhere"), "val", None, None)


def test_folders_below_matched_name_a_pair(folder):
    (folder / "matched/cats/real/web").mkdir(parents=True)
    (folder / "matched/cats/real/web/1.jpg").write_bytes(encoded(7))
    found = list_labelled(str(folder), "val", None, None)
    assert [(i.group, i.pair) for i in found if i.pair] == [("web", "cats")]
    assert read_listing(write_listing(str(folder / "cache"), found)) == found


def test_thinning_takes_the_same_images_of_every_group_whatever_else_is_there(folder):
    few = list_labelled(str(folder), "val", 2, None)
    assert [i.group for i in few].count("web") == [i.group for i in few].count("gan") == 2
    assert list_labelled(str(folder), "val", 2, None) == few
