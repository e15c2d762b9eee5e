"""Certificates and signatures on the bundled photographs with the bundled scorer."""

import math

import numpy as np
import pytest
import torch
from fabricate import ROOT

from mdmf_core.mmd.coreset import compress, weighted_mmd
from mdmf_core.mmd.terms import density
from mdmf_core.scoring.scorer import Signatures
from tasks.banks.real_images import collect, spooled
from tasks.parts.kept_signatures import read_signatures, signature_writer
from tasks.scoring.loading import load_scorer, load_setup


@pytest.fixture(scope="module")
def images():
    with spooled() as append:
        found, _ = collect(
            str(ROOT / "samples" / "laion-mini" / "00000.tar"), load_scorer("default", "cpu"), 60, "photo", None, append
        )
        yield [(image, image.signatures()) for image in found]


@pytest.mark.parametrize("method", ["herding", "nystrom", "thinning"])
@pytest.mark.parametrize("block", [10**6, 700])
def test_the_bound_holds_for_every_image_and_every_patch(images, method, block):
    sigma = load_scorer("default", "cpu").sigma
    bank = torch.cat([signatures[::2] for _, signatures in images[:30]])
    even = torch.full((len(bank),), 1 / len(bank), dtype=torch.float64)
    core = compress(iter(torch.split(bank, block)), 200, sigma, method)
    for _, signatures in images[30:]:
        own = torch.full((len(signatures),), 1 / len(signatures), dtype=torch.float64)
        exact = weighted_mmd(signatures, own, bank, even, sigma)
        compressed = weighted_mmd(signatures, own, core.points, core.weights, sigma)
        assert abs(exact - compressed) <= core.error + 1e-6
        at = signatures.double()
        gap = density(at, bank.double(), even, sigma) - density(at, core.points.double(), core.weights, sigma)
        assert float(gap.abs().max()) <= core.error + 1e-6
    assert core.error < 0.1


def test_scores_from_kept_signatures_are_those_of_the_pixels_within_what_fp16_loses(images, tmp_path):
    setup = load_setup("default", "default", "cpu", 8, 1, None)
    some = images[:20]
    vectors = torch.cat([signatures for _, signatures in some])
    embeddings = torch.from_numpy(np.stack([image.embedding for image, _ in some]))
    shapes = [image.shape for image, _ in some]
    found = Signatures(vectors, [len(signatures) for _, signatures in some], embeddings)
    path = str(tmp_path / "s" / "one.parquet")
    with signature_writer(path) as writer:
        writer.write([image.member.key for image, _ in some], [image.member.sha256 for image, _ in some], found)
    kept = list(read_signatures(path, 7))
    assert [key for batch in kept for key in batch.keys] == [image.member.key for image, _ in some]
    again = [
        row.score
        for start, batch in zip(range(0, 20, 7), kept, strict=True)
        for row in setup.scorer.score(batch.signatures, shapes[start : start + 7], setup.bank, setup.calibration)
    ]
    exact = [row.score for row in setup.scorer.score(found, shapes, setup.bank, setup.calibration)]
    assert np.abs(np.subtract(again, exact)).max() < 2e-3 * max(1.0, math.sqrt(np.square(exact).mean()))
