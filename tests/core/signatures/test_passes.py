"""Crops in passes: all of them in order, whatever their number, and halves where memory runs out."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from mdmf_core.errors import MdmfError
from mdmf_core.images.crops import CropPlan
from mdmf_core.scoring.scorer_files import backbone_scorer
from mdmf_core.signatures.passes import Passes


class Small(nn.Module):
    """A device on which no more than so many crops fit."""

    def __init__(self, backbone: nn.Module, fits: int) -> None:
        super().__init__()
        self.backbone, self.fits, self.asked = backbone, fits, []

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(crops))
        if len(crops) > self.fits:
            raise torch.OutOfMemoryError(f"{len(crops)} crops")
        return self.backbone(crops)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [CropPlan(64, 16).cut(random.integers(0, 256, (64, 64 * count, 3), dtype=np.uint8)) for count in (3, 1, 5, 2)]


def with_device(fits: int) -> tuple[Small, object]:
    from dataclasses import replace

    scorer = backbone_scorer("forensic", torch.device("cpu"), None)
    device = Small(scorer.backbone, fits)
    return device, replace(scorer, backbone=device)


def test_a_pass_that_found_no_memory_is_done_again_in_halves_and_nothing_is_lost(images, caplog):
    whole = with_device(100)[1].extract(images)
    device, scorer = with_device(3)
    passes = Passes(11)
    with caplog.at_level(logging.WARNING):
        found = scorer.extract(images, passes)
    assert device.asked == [11, 5, 2, 2, 2, 2, 2, 1]
    assert passes.crops == 2
    assert [record.message for record in caplog.records] == [
        "11 crops at once are too many for cpu; from now on 5",
        "5 crops at once are too many for cpu; from now on 2",
    ]
    assert found.counts == whole.counts == [27, 9, 45, 18]
    assert torch.allclose(found.vectors, whole.vectors, atol=1e-4)
    assert torch.allclose(found.embeddings, whole.embeddings, atol=1e-4)
    caplog.clear()
    scorer.extract(images, passes)
    assert not caplog.records  # it has settled


def test_passes_grow_while_all_goes_well_and_never_beyond_what_failed(images):
    device, scorer = with_device(5)
    passes = Passes(1, 64)
    for _ in range(3):
        scorer.extract(images, passes)
    # Doubled after full passes; 8 would be too many, but only 4 were left when it was its turn; then 8 failed, and stays out.
    assert device.asked[:4] == [1, 2, 4, 4]
    assert 8 in device.asked
    assert device.asked[device.asked.index(8) + 1 :].count(8) == 0
    assert passes.crops == 4


def test_a_crop_that_does_not_fit_alone_says_what_to_do(images):
    _, scorer = with_device(0)
    with pytest.raises(
        MdmfError, match=r"one crop of 64 x 64 px does not fit into the memory of cpu: 1 crops\. Free the device"
    ):
        scorer.extract(images, Passes(2))


def test_a_pass_of_no_crops_is_refused():
    with pytest.raises(ValueError, match="at least 1 crop, got 0"):
        Passes(0)


def test_embeddings_are_means_over_all_patches_of_an_image(images):
    _, scorer = with_device(100)
    found = scorer.extract(images, Passes(2))
    for vectors, embedding in zip(torch.split(found.vectors, found.counts), found.embeddings, strict=True):
        assert torch.allclose(vectors.mean(0), embedding, atol=1e-4)
