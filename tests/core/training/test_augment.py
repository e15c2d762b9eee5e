"""Crawls and perturbations treat both classes alike and leave no trace of the file's own format."""

import io

import numpy as np
import pytest
from fabricate import photo
from PIL import Image

from mdmf_core.images.crops import CropPlan
from mdmf_core.records import ImageExcluded
from mdmf_core.training.augment import PERTURBATIONS, perturb, random_crop
from mdmf_core.training.conditions import crops_under
from mdmf_core.training.crawl import crawled

PIXELS = np.asarray(photo(1, 300, 280))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_gives_pixels(name):
    changed = perturb(PIXELS, name)
    assert changed.dtype == np.uint8
    factor = float(name.partition("-")[2]) if name.startswith("resize") else 1
    assert changed.shape == (round(280 * factor), round(300 * factor), 3)
    same = np.array_equal(changed, PIXELS) if changed.shape == PIXELS.shape else False
    assert same == (name in ("stored", "png"))


@pytest.mark.parametrize("name", ["jpeg", "jpeg-x", "tilt-5", "crawl-1"])
def test_unknown_perturbations_are_refused(name):
    with pytest.raises(ValueError, match="unknown perturbation"):
        perturb(PIXELS, name)


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        random_crop(PIXELS, 281, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ the neutral protocol


def test_a_crawl_shrinks_every_image_to_web_size_and_repeats_from_its_seed():
    large = np.asarray(photo(2, 900, 700))
    shorts = []
    for seed in range(40):
        seen = crawled(large, 224, np.random.default_rng(seed))
        assert np.array_equal(seen, crawled(large, 224, np.random.default_rng(seed)))
        assert seen.shape[1] / seen.shape[0] == pytest.approx(900 / 700, rel=0.05)
        shorts.append(min(seen.shape[:2]))
    assert 256 <= min(shorts) < 300
    assert 460 < max(shorts) <= 512


def test_a_small_image_shrinks_a_little_and_never_below_the_crop():
    shorts = [min(crawled(PIXELS, 224, np.random.default_rng(seed)).shape[:2]) for seed in range(40)]
    assert min(shorts) >= 224
    assert max(shorts) <= 0.97 * 279


def test_an_image_that_would_have_to_grow_is_excluded():
    with pytest.raises(ImageExcluded, match="240 px"):
        crawled(PIXELS[:224], 224, np.random.default_rng(0))


def test_views_depend_on_the_file_and_their_number_and_on_nothing_else():
    plan, digest = CropPlan(64, 1), "ab" * 32
    first = crops_under("crawl-0", PIXELS, digest, plan)
    assert first.shape == (1, 3, 64, 64)
    assert np.array_equal(first, crops_under("crawl-0", PIXELS, digest, plan))
    assert not np.array_equal(first, crops_under("crawl-1", PIXELS, digest, plan))
    assert not np.array_equal(first, crops_under("crawl-0", PIXELS, "cd" * 32, plan))


def test_a_plan_of_several_crops_cuts_all_of_a_view():
    seen = crawled(PIXELS, 64, np.random.default_rng([int("ab" * 6, 16), 0]))
    plan = CropPlan(64, 16)
    assert np.array_equal(crops_under("crawl-0", PIXELS, "ab" * 32, plan), plan.cut(seen))


@pytest.mark.parametrize("name", ["turned-0", "crawl-x", "crawl", "crawl--1"])
def test_unknown_conditions_are_refused(name):
    with pytest.raises(ValueError, match=r"unknown condition .*known are crawl-0"):
        crops_under(name, PIXELS, "ab" * 32, CropPlan(64, 1))


def test_crops_in_the_scorers_encoding_do_not_depend_on_their_neighbours():
    plan = CropPlan(64, 16, quality=90)
    crops = np.stack([PIXELS[top : top + 64, left : left + 64] for top in (0, 101, 200) for left in (3, 90)])
    together = plan.finish(crops)
    assert all(np.array_equal(plan.finish(crop[None])[0], found) for crop, found in zip(crops, together, strict=True))
    assert not np.array_equal(together, CropPlan(64, 16).finish(crops))


def test_a_png_of_the_pixels_gives_the_same_crops():
    plan, buffer = CropPlan(64, 1, quality=90), io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    assert np.array_equal(plan.cut(np.asarray(Image.open(buffer))), plan.cut(PIXELS))


def test_a_quality_needs_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 8"):
        CropPlan(60, 1, quality=90)
    with pytest.raises(ValueError, match="multiple of 8"):
        CropPlan(64, 1, quality=0)
