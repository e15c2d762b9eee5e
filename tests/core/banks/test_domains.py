"""Slices, their support, and the domains that an image may belong to."""

import numpy as np
import pytest
import torch

from mdmf_core.banks.bank import Bank, Slice
from mdmf_core.banks.calibration import Calibration, CalibrationSlice
from mdmf_core.banks.domains import Router, Support, cluster, slice_name
from mdmf_core.mmd.coreset import compress
from mdmf_core.records import ImageShape
from mdmf_core.scoring.scorer import Signatures
from mdmf_core.scoring.scorer_files import backbone_scorer

PHOTO = ImageShape(640, 480, 92, None)


def embeddings(domains: int, each: int, seed: int = 0, apart: float = 6.0) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    centres = np.eye(domains, 8) * apart
    names = [f"d{at}" for at in range(domains) for _ in range(each)]
    return np.concatenate([random.normal(centre, 1, (each, 8)) for centre in centres]), names


@pytest.mark.parametrize("domains", [2, 3, 5])
def test_the_router_knows_domains_that_lie_apart(domains: int) -> None:
    known, names = embeddings(domains, 1500, apart=9.0)
    router = Router.fit(known, names)
    fresh, expected = embeddings(domains, 40, seed=1, apart=9.0)
    plausible = router.plausible(torch.from_numpy(fresh))
    own = plausible[np.arange(len(fresh)), [router.domains.index(name) for name in expected]]
    assert own.mean() > 0.98
    assert plausible.sum() < 1.5 * len(fresh)


def test_an_image_between_two_domains_may_belong_to_either_and_an_outlier_is_never_rejected() -> None:
    known, names = embeddings(2, 200, apart=4.0)
    router = Router.fit(known, names)
    middle = torch.from_numpy((known[:200].mean(0) + known[200:].mean(0))[None] / 2)
    assert router.plausible(middle).tolist() == [[True, True]]
    assert router.plausible(torch.full((1, 8), 1e4)).sum() >= 1


def test_a_router_survives_its_tensors() -> None:
    known, names = embeddings(3, 30)
    router = Router.fit(known, names)
    again = Router.from_tensors(router.domains, router.tensors())
    fresh = torch.from_numpy(embeddings(3, 5, seed=2)[0])
    np.testing.assert_array_equal(again.plausible(fresh), router.plausible(fresh))


def test_clusters_find_what_lies_apart_and_repeat() -> None:
    known, names = embeddings(3, 40, apart=9.0)
    found = cluster(known, 3)
    assert found == cluster(known, 3)
    assert len({(a, b) for a, b in zip(found, names, strict=True)}) == 3
    with pytest.raises(ValueError, match="2 images cannot form 3 clusters"):
        cluster(known[:2], 3)


@pytest.mark.parametrize(
    ("shape", "match", "name"),
    [
        (PHOTO, (), "photo"),
        (PHOTO, ("quality",), "photo, jpeg 90-100"),
        (ImageShape(640, 480, 89, None), ("quality",), "photo, jpeg 75-89"),
        (ImageShape(640, 480, 75, None), ("quality",), "photo, jpeg 75-89"),
        (ImageShape(640, 480, None, None), ("quality",), "photo, lossless"),
        (ImageShape(319, 900, 92, None), ("size",), "photo, 0-319 px"),
        (ImageShape(320, 900, 92, None), ("size",), "photo, 320-767 px"),
        (ImageShape(900, 768, 92, None), ("size",), "photo, 768 px and more"),
        (ImageShape(900, 768, 92, True), ("resized",), "photo, resized"),
        (ImageShape(900, 768, 92, False), ("resized", "quality"), "photo, jpeg 90-100, not resized"),
    ],
)
def test_slices_are_named_by_their_bands(shape: ImageShape, match: tuple[str, ...], name: str) -> None:
    assert slice_name("photo", shape, match) == name


def test_matched_support_is_the_whole_band_and_the_rest_is_what_was_seen() -> None:
    shapes = [ImageShape(640, 480, quality, True) for quality in (78, 85)]
    plain, matched = Support.of(shapes, ()), Support.of(shapes, ("quality", "size", "resized"))
    for quality, in_plain, in_matched in (
        (74, False, False),
        (75, False, True),
        (78, True, True),
        (89, True, True),
        (90, True, False),
    ):
        shape = ImageShape(640, 480, quality, True)
        assert (plain.covers(shape), matched.covers(shape)) == (in_plain, in_matched), quality
    assert matched.covers(ImageShape(640, 320, 80, True))
    assert not matched.covers(ImageShape(640, 319, 80, True))
    assert not matched.covers(ImageShape(1000, 768, 80, True))
    assert plain.covers(ImageShape(640, 480, 80, False))
    assert not matched.covers(ImageShape(640, 480, 80, False))
    assert not plain.covers(ImageShape(640, 480, None, True))


def test_every_shape_lies_in_the_slice_that_it_is_named_by() -> None:
    random = np.random.default_rng(3)
    match = ("quality", "size", "resized")
    for _ in range(300):
        shape = ImageShape(
            int(random.integers(64, 3000)), int(random.integers(64, 3000)),
            None if random.random() < 0.2 else int(random.integers(1, 101)), [True, False, None][random.integers(3)],
        )  # fmt: skip
        twin = ImageShape(shape.height, shape.width, shape.jpeg_quality, shape.resized)
        assert Support.of([shape], match).covers(shape)
        assert Support.of([shape], match).covers(twin)


class TestTheRuleThatPicksASlice:
    """Two slices far apart in signature space; scores are minus the mean kernel to the slice, so that hand cases are easy."""

    @pytest.fixture
    def setup(self, tiny_scorer):
        scorer = backbone_scorer(tiny_scorer, torch.device("cpu"), None)
        points = {"art": torch.full((4, 2), 5.0), "photo": torch.zeros(4, 2)}
        slices = tuple(Slice.of(name, compress([at + torch.rand(4, 2) * 0.01], 4, 1.0), 4, 1.0) for name, at in points.items())
        router = Router(
            ("art", "photo"), torch.zeros(2).double(), torch.ones(2).double(), torch.tensor([[4.0, 0], [0, 4.0]]).double(),
            torch.zeros(2).double(),
        )  # fmt: skip
        bank = Bank("b", scorer.scorer_id, slices, 1.0, (), (), router)
        supports = {name: Support.of([PHOTO, ImageShape(640, 480, 60, None)], ()) for name in ("art", "photo")}
        scores = tuple(i / 100 for i in range(100))
        calibration = Calibration(
            scorer.scorer_id, bank.bank_id,
            tuple(CalibrationSlice(name, scores, supports[name], ()) for name in ("art", "photo")),
        )  # fmt: skip
        return scorer, bank, calibration

    def score(self, setup, at: float, embedding: list[float], shape: ImageShape = PHOTO):
        scorer, bank, calibration = setup
        vectors = torch.full((3, 2), at) + torch.rand(3, 2, generator=torch.Generator().manual_seed(1)) * 0.01
        (row,) = scorer.score(Signatures(vectors, [3], torch.tensor([embedding])), [shape], bank, calibration)
        return row

    def test_the_slice_that_speaks_most_for_an_image_is_its_own(self, setup) -> None:
        for at, name in ((5.0, "art"), (0.0, "photo")):
            row = self.score(setup, at, [0.0, 0.0])  # may be either
            assert (row.domain, row.in_support) == (name, True)
            assert row.p_value > 0.5

    def test_a_domain_that_is_not_plausible_does_not_excuse(self, setup) -> None:
        row = self.score(setup, 5.0, [0.0, 5.0])  # surely a photo, and far from the photos
        assert (row.domain, row.in_support) == ("photo", True)
        assert row.p_value == pytest.approx(1 / 101)

    def test_an_image_outside_every_slice_is_unsure(self, setup) -> None:
        for shape in (ImageShape(640, 480, 50, None), ImageShape(9000, 480, 92, None), ImageShape(640, 480, None, None)):
            assert not self.score(setup, 0.0, [0.0, 0.0], shape).in_support

    def test_terms_are_those_of_the_slice_that_was_picked(self, setup) -> None:
        row = self.score(setup, 5.0, [0.0, 0.0])
        assert row.cross_term > 0.99
        assert row.mmd2 == pytest.approx(row.self_term - 2 * row.cross_term + setup[1].slices[0].bank_term, abs=1e-9)
