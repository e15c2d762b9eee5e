"""Crop plans: inside the image, to its edges, never padded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_core.images.crops import CropPlan
from mdmf_core.records import ExclusionReason, ImageExcluded

SIDES = st.integers(64, 3000)


@given(SIDES, SIDES, st.integers(1, 20))
def test_crops_lie_inside_reach_the_edges_and_keep_the_budget(height, width, most):
    boxes = CropPlan(64, most).boxes(height, width)
    assert 1 <= len(boxes) <= most
    assert len(set(boxes)) == len(boxes)
    tops, lefts = {top for top, _ in boxes}, {left for _, left in boxes}
    assert min(tops) >= 0
    assert min(lefts) >= 0
    assert max(tops) <= height - 64
    assert max(lefts) <= width - 64
    for offsets, length in ((tops, height), (lefts, width)):
        if len(offsets) > 1:
            assert (min(offsets), max(offsets)) == (0, length - 64)


@given(st.integers(1, 63), SIDES)
def test_an_image_smaller_than_a_crop_is_too_small(height, width):
    with pytest.raises(ImageExcluded) as excluded:
        CropPlan(64, 4).boxes(height, width)
    assert excluded.value.reason is ExclusionReason.TOO_SMALL


def test_cut_is_slicing():
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    plan = CropPlan(64, 6)
    for crop, (top, left) in zip(plan.cut(pixels), plan.boxes(150, 200), strict=True):
        assert np.array_equal(crop.transpose(1, 2, 0), pixels[top : top + 64, left : left + 64])


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CropPlan(0, 1)
