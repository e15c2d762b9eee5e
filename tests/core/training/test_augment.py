"""Histories and perturbations treat both classes alike and leave no trace of the file's own format."""

import io

import numpy as np
import pytest
from fabricate import photo
from PIL import Image

from mdmf_core.images.crops import CropPlan
from mdmf_core.records import ImageExcluded
from mdmf_core.training.augment import PERTURBATIONS, History, perturb, random_crop
from mdmf_core.training.conditions import crops_under

PIXELS = np.asarray(photo(1, 300, 280))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_gives_pixels(name):
    changed = perturb(PIXELS, name)
    assert changed.dtype == np.uint8
    factor = float(name.partition("-")[2]) if name.startswith("resize") else 1
    assert changed.shape == (round(280 * factor), round(300 * factor), 3)
    same = np.array_equal(changed, PIXELS) if changed.shape == PIXELS.shape else False
    assert same == (name in ("stored", "png"))


@pytest.mark.parametrize("name", ["jpeg", "jpeg-x", "tilt-5", "augmented-1"])
def test_unknown_perturbations_are_refused(name):
    with pytest.raises(ValueError, match="unknown perturbation"):
        perturb(PIXELS, name)


def test_a_history_repeats_from_its_seed_and_never_falls_below_the_crop():
    for seed in range(60):
        random = np.random.default_rng(seed)
        history = History.draw(random)
        small = PIXELS[:70, :66]
        processed = history.apply(history.region(small, 64, random), 64, random)
        assert min(processed.shape[:2]) >= 64
        again = np.random.default_rng(seed)
        assert np.array_equal(processed, (h := History.draw(again)).apply(h.region(small, 64, again), 64, again))


def test_the_draw_of_a_history_does_not_look_at_the_class():
    plan = CropPlan(64, 4)
    real, made = (crops_under("augmented-0", PIXELS, generated, plan, [], (7, 8)) for generated in (False, True))
    # Without regenerators the class decides nothing but the draw of the smoothed counterpart, which comes after the region.
    assert real.shape == made.shape == (3, 3, 64, 64)


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        random_crop(PIXELS, 281, np.random.default_rng(0))
    with pytest.raises(ImageExcluded, match="training needs 512"):
        crops_under("augmented-0", PIXELS, False, CropPlan(512, 1), [], (0,))
    with pytest.raises(ValueError, match="unknown condition"):
        crops_under("turned-0", PIXELS, False, CropPlan(64, 1), [], (0,))


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
