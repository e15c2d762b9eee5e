"""The token cache: one file per chunk and condition, resumed, invalidated by what it depends on."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate import encoded

from mdmf_core.errors import LabelError, SourceError
from mdmf_core.scoring.scorer_files import backbone_scorer
from mdmf_core.training.labelled import LabelledImage
from mdmf_core.training.regenerate import SPECS, Regenerator, RegeneratorSpec, match_spectrum, regenerate, train_regenerator
from tasks.scoring.loading import load_scorer
from tasks.training.labelled_sets import list_labelled
from tasks.training.token_cache import TokenCache, chunked, load_regenerators

CONDITIONS = ["stored", "jpeg-90", "augmented-0", "regenerated-0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, seeds in (("real/web", range(3)), ("generated/gan", range(10, 12))):
        (tmp_path / place).mkdir(parents=True)
        for seed in seeds:
            (tmp_path / place / f"{seed}.jpg").write_bytes(encoded(seed, width=160, height=128))
    (tmp_path / "real/web/cut.jpg").write_bytes(encoded(5)[:900])
    return tmp_path


def cache_of(folder: Path, seed: int = 0) -> TokenCache:
    return TokenCache(
        str(folder / "cache"), load_scorer("forensic", "cpu"), seed, [Regenerator(SPECS["autoencoder-4-nearest"]).eval()]
    )


def test_tokens_of_a_set_and_the_images_that_have_none(folder):
    chunks = chunked(list_labelled(str(folder), "val", None, None))
    cache = cache_of(folder)
    assert {chunk[0].generated: cache.fill(chunk, CONDITIONS, None) for chunk in chunks} == {True: 3, False: 4}
    found = {name: list(cache.read(chunks, name)) for name in CONDITIONS}
    assert sum(len(chunk.facts) for chunk in found["regenerated-0"]) == 4  # real images only
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
    renamed = tuple(replace(image, group="other", domain="art") for image in chunk)
    assert cache.fill(renamed, ["stored"], None) == 0
    assert {(f.group, f.domain) for f in next(cache.read([renamed], "stored")).facts} == {("other", "art")}


def test_random_conditions_depend_on_the_seed_and_fixed_ones_do_not(folder):
    chunk = chunked(list_labelled(str(folder), "val", None, None))[0]
    first, second = cache_of(folder, 0), cache_of(folder, 1)
    assert first.path(chunk, "stored") == second.path(chunk, "stored")
    assert first.path(chunk, "augmented-0") != second.path(chunk, "augmented-0")
    other = TokenCache(str(folder / "cache"), backbone_scorer("forensic", torch.device("cpu"), torch.bfloat16), 0, [])
    assert other.path(chunk, "augmented-0") != first.path(chunk, "augmented-0")


def test_a_new_group_leaves_the_chunks_of_the_others(folder):
    before = chunked(list_labelled(str(folder), "val", None, None))
    (folder / "generated/new").mkdir()
    (folder / "generated/new/1.jpg").write_bytes(encoded(99))
    after = chunked(list_labelled(str(folder), "val", None, None))
    assert set(before) < set(after)


def test_manifests(folder):
    manifest = folder / "m.csv"
    manifest.write_text("label,set,file,fold,domain\nreal,web,real/web/0.jpg,1,face\nfake,gan,generated/gan/10.jpg,,\n")
    real, made = list_labelled(str(manifest), "val", None, None)
    assert real == LabelledImage(f"{folder}/real/web/0.jpg", False, "web", 0, 1, "face")
    assert (made.generated, made.fold, made.domain) == (True, None, "photo")


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


def test_thinning_takes_the_same_images_of_every_group_whatever_else_is_there(folder):
    few = list_labelled(str(folder), "val", 2, None)
    assert [i.group for i in few].count("web") == [i.group for i in few].count("gan") == 2
    assert list_labelled(str(folder), "val", 2, None) == few


# ------------------------------------------------------------------------------------------------ regenerators


def test_a_regenerator_learns_its_tiles_and_repeats_from_its_seed():
    tiles = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (40, 120, 200)])
    spec = RegeneratorSpec("nearest", 1, 8, 4, 0.0)
    untrained, trained, again = (train_regenerator(spec, tiles, steps, 3) for steps in (1, 80, 80))
    random = np.random.default_rng(0)
    errors = [np.abs(regenerate(net, tiles[1], 0.0, random).astype(int) - 120).mean() for net in (untrained, trained)]
    assert errors[1] < errors[0] / 3
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", SPECS)
def test_every_regenerator_keeps_the_size_and_what_is_kept(name):
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    network = Regenerator(SPECS[name]).eval()
    assert regenerate(network, picture, 0.0, np.random.default_rng(0)).shape == picture.shape
    assert np.array_equal(regenerate(network, picture, 1.0, np.random.default_rng(0)), picture)


def test_tiles_that_are_too_small_and_operators_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="at least 64 px"):
        train_regenerator(SPECS["autoencoder-4-nearest"], np.zeros((2, 32, 64, 3), np.uint8), 1, 0)
    with pytest.raises(ValueError, match="upsampling must be"):
        Regenerator(RegeneratorSpec("magic", 1, 8, 4, 0.0))


def test_matching_a_spectrum_makes_an_image_as_smooth_as_its_counterpart():
    random = np.random.default_rng(0)
    sharp = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(random.integers(0, 256, (24, 24, 3), dtype=np.uint8), 4, 0), 4, 1)
    matched = match_spectrum(sharp, smooth)
    roughness = [np.abs(np.diff(image.astype(int), axis=0)).mean() for image in (sharp, smooth, matched)]
    assert roughness[2] < 0.6 * roughness[0]


def test_regenerators_are_trained_once_and_need_a_readable_photograph(folder):
    images = list_labelled(str(folder), "val", None, None)
    first = load_regenerators(str(folder / "cache"), images, 1, 0, None)
    second = load_regenerators(str(folder / "cache"), images, 1, 0, None)
    assert len(first) == len(SPECS)
    assert all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    broken = [i for i in images if i.url.endswith("cut.jpg")]
    with pytest.raises(SourceError, match="none of 1 real images"):
        load_regenerators(str(folder / "cache"), broken, 1, 0, None)
