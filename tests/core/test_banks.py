"""Coresets with a certificate, and banks as immutable files."""

import io
import json
import math
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdmf_core.banks import CARD, MEMBERS, TENSORS, Bank, BankMember, Slice, bank_from_files, require_finite, require_slices
from mdmf_core.coreset import compress, herding, kernel_means, weighted_mmd
from mdmf_core.digests import sha256_hex
from mdmf_core.domains import Router
from mdmf_core.errors import ArtifactError
from mdmf_core.kernels import gaussian
from mdmf_core.mmd import density


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def members(n: int = 3) -> tuple[BankMember, ...]:
    return tuple(BankMember("shard-0.tar", f"{i:05d}", sha256_hex(bytes([i])), licence="CC0-1.0") for i in range(n))


def bank(seed: int = 0) -> Bank:
    """Two slices, a router and features: every part that a bank can have."""
    sigma = 1.7
    cores = {domain: compress([normal(120, 4, seed + at)], 20, sigma) for at, domain in enumerate(("art", "photo"))}
    slices = tuple(Slice.of(domain, core, 2, sigma) for domain, core in cores.items())
    mean, std, weight, bias = normal(1, 5, 9)[0], normal(1, 5, 8)[0], normal(2, 5, 9), normal(1, 2, 9)[0]
    router = Router(("art", "photo"), mean.double(), std.double(), weight.double(), bias.double())
    return Bank("photos", "a" * 64, slices, sigma, members(), (), router, normal(3, 6, 5))


def biased_mmd(x: Tensor, v: Tensor, y: Tensor, w: Tensor, sigma: float) -> float:
    """MMD of two weighted point sets, straight from the definition, in float64."""
    points, signed = torch.cat([x, y]).double(), torch.cat([v, -w]).double()
    differences = points[:, None, :] - points[None, :, :]
    kernel = torch.exp(-differences.square().sum(2) / (2 * sigma**2))
    return math.sqrt(max(float(signed @ kernel @ signed), 0.0))


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.data(), st.floats(0.2, 4.0), st.integers(0, 10_000))
def test_the_certificate_bounds_the_error_of_every_mmd_and_every_density(
    n: int, data: st.DataObject, sigma: float, seed: int
) -> None:
    size = data.draw(st.integers(1, n))
    full, image = normal(n, 3, seed), normal(7, 3, seed + 1) * 1.5 + 0.5
    indices, error = herding(full, size, sigma)
    core = full[indices]
    assert error == pytest.approx(biased_mmd(full, uniform(n), core, uniform(size), sigma), abs=1e-7)
    to_full = biased_mmd(image, uniform(7), full, uniform(n), sigma)
    to_core = biased_mmd(image, uniform(7), core, uniform(size), sigma)
    assert abs(to_full - to_core) <= error + 1e-7
    at = torch.cat([image, full]).double()
    apart = density(at, full.double(), uniform(n), sigma) - density(at, core.double(), uniform(size), sigma)
    assert float(apart.abs().max()) <= error + 1e-7


def test_the_certificate_equals_a_naive_mmd_and_beats_a_random_coreset() -> None:
    full = normal(300, 5, 1)
    indices, error = herding(full, 20, 2.0)
    assert len(set(indices.tolist())) == 20
    assert error == pytest.approx(biased_mmd(full, uniform(300), full[indices], uniform(20), 2.0), abs=1e-9)
    random = [
        biased_mmd(
            full, uniform(300), full[torch.randperm(300, generator=torch.Generator().manual_seed(s))[:20]], uniform(20), 2.0
        )
        for s in range(20)
    ]
    assert error < min(random)


def test_each_step_of_herding_takes_the_point_that_lowers_mmd_most() -> None:
    full = normal(25, 2, 3)
    indices = herding(full, 6, 1.0)[0].tolist()
    for step in range(6):
        chosen = indices[:step]
        errors = {
            t: biased_mmd(full, uniform(25), full[[*chosen, t]], uniform(step + 1), 1.0) for t in range(25) if t not in chosen
        }
        assert errors[indices[step]] == pytest.approx(min(errors.values()), abs=1e-9)


def test_herding_of_all_points_has_no_error() -> None:
    indices, error = herding(normal(80, 3, 2), 80, 1.0)
    assert sorted(indices.tolist()) == list(range(80))
    assert error < 1e-7


@pytest.mark.parametrize("size", [0, -1, 11])
def test_a_coreset_larger_than_its_points_or_empty_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"of 10 points holds 1 to 10, not {size}"):
        herding(normal(10, 2, 0), size, 1.0)


def test_kernel_means_in_blocks_equal_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    points = normal(53, 3, 4)
    expected = gaussian(points.double(), points.double(), 0.9).mean(1)
    monkeypatch.setattr("mdmf_core.coreset._ROWS", 7)
    torch.testing.assert_close(kernel_means(points, 0.9), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["herding", "nystrom", "thinning"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_the_certificate_of_every_compression_bounds_the_real_distance(method: str, blocks: int) -> None:
    full, image = normal(400, 3, 1), normal(9, 3, 2) * 1.5 + 0.5
    core = compress(iter(torch.split(full, 400 // blocks)), 40, 1.5, method)
    assert core.source_points == 400
    real = biased_mmd(full, uniform(400), core.points, core.weights, 1.5)
    assert real <= core.error + 1e-7
    if blocks == 1:
        assert core.error == pytest.approx(real, abs=1e-6)
    to_full = biased_mmd(image, uniform(9), full, uniform(400), 1.5)
    assert abs(to_full - biased_mmd(image, uniform(9), core.points, core.weights, 1.5)) <= core.error + 1e-7
    at = image.double()
    gap = density(at, full.double(), uniform(400), 1.5) - density(at, core.points.double(), core.weights, 1.5)
    assert float(gap.abs().max()) <= core.error + 1e-7


def test_optimal_weights_are_at_least_as_near_as_equal_ones() -> None:
    full = normal(300, 3, 4)
    assert compress([full], 30, 1.5, "nystrom").error <= compress([full], 30, 1.5, "herding").error


def test_thinning_keeps_a_power_of_two() -> None:
    assert len(compress([normal(300, 3, 4)], 40, 1.5, "thinning").points) == 32


def test_an_error_bound_takes_as_few_points_as_reach_it() -> None:
    full = normal(300, 3, 4)
    core = compress([full], 200, 1.5, max_error=0.03)
    assert core.error <= 0.03
    assert len(core.points) < 200
    assert herding(full, len(core.points) - 1, 1.5)[1] > 0.03
    with pytest.raises(ValueError, match=r"5 points reach an error of .*, not 0\.001; allow more points"):
        compress([full], 5, 1.5, max_error=0.001)


def test_an_error_bound_counts_what_the_blocks_lost() -> None:
    full = normal(600, 3, 4)
    core = compress(iter(torch.split(full, 200)), 150, 1.5, max_error=0.05)
    assert biased_mmd(full, uniform(600), core.points, core.weights, 1.5) <= core.error <= 0.05


def test_a_stream_is_compressed_in_the_memory_of_its_blocks() -> None:
    alive: list[int] = []

    def blocks():
        for number in range(40):
            block = normal(500, 3, number)
            weakref.finalize(block, alive.pop)
            alive.append(number)
            assert len(alive) <= 4, "earlier blocks are still held"
            yield block

    assert compress(blocks(), 20, 1.5).source_points == 20_000


def test_compression_of_nothing_or_by_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="no points to compress"):
        compress([torch.zeros(0, 3)], 5, 1.0)
    with pytest.raises(ValueError, match="unknown compression 'magic'; known are herding, nystrom, thinning"):
        compress([normal(9, 3, 0)], 5, 1.0, "magic")


def test_weighted_mmd_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(23, 3, 0), normal(11, 3, 1)
    v = torch.rand(23, generator=torch.Generator().manual_seed(2)).double()
    expected = biased_mmd(x, v, y, uniform(11), 0.9)
    monkeypatch.setattr("mdmf_core.coreset._ROWS", 5)
    assert weighted_mmd(x, v, y, uniform(11), 0.9) == pytest.approx(expected, abs=1e-12)


def test_weighted_herding_follows_the_weights() -> None:
    points = torch.tensor([[0.0], [10.0]]).repeat(5, 1)
    weights = torch.tensor([0.18, 0.02]).repeat(5).double()
    chosen = points[herding(points, 5, 1.0, weights)[0]][:, 0].tolist()
    assert chosen[:4] == [0.0] * 4


def test_the_bank_term_is_the_weighted_mean_kernel_between_its_points() -> None:
    weights = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1], dtype=torch.float64)
    made = Slice("photo", normal(6, 3, 1), weights, 0.0, 6, 3, 1.2)
    expected = sum(
        float(weights[i] * weights[j])
        * math.exp(-float((made.points[i].double() - made.points[j].double()).square().sum()) / (2 * 1.2**2))
        for i in range(6)
        for j in range(6)
    )
    assert made.bank_term == pytest.approx(expected, abs=1e-14)


def test_a_bank_states_its_points_patches_and_largest_certificate() -> None:
    made = bank()
    assert (made.points, made.patches) == (40, 240)
    assert made.coreset_error == max(part.error for part in made.slices)


def test_a_bank_survives_its_files_unchanged() -> None:
    made = bank()
    read = bank_from_files(made.files().__getitem__)
    for one, other in zip(read.slices, made.slices, strict=True):
        assert torch.equal(one.points, other.points)
        assert torch.equal(one.weights, other.weights)
        assert (one.domain, one.error, one.patches, one.images, one.bank_term) == (
            other.domain, other.error, other.patches, other.images, other.bank_term,
        )  # fmt: skip
    assert torch.equal(read.features, made.features)
    assert torch.equal(read.router.weight, made.router.weight)
    scalars = ("name", "scorer_id", "sigma", "match", "members", "bank_id")
    assert [getattr(read, name) for name in scalars] == [getattr(made, name) for name in scalars]


def test_the_same_patches_give_the_same_bank_and_the_same_files() -> None:
    assert bank().bank_id == bank().bank_id
    assert bank().files() == bank().files()


def changed(made: Bank, **parts: object) -> Bank:
    return replace(made, slices=(replace(made.slices[0], **parts), *made.slices[1:]))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: changed(b, points=b.slices[0].points.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(9.0))),
        lambda b: changed(b, points=b.slices[0].points.double()),
        lambda b: changed(b, weights=b.slices[0].weights.flip(0) * torch.linspace(0.9, 1.1, 20, dtype=torch.float64)),
        lambda b: changed(b, domain="faces"),
        lambda b: changed(b, error=0.5),
        lambda b: changed(b, patches=1),
        lambda b: replace(b, slices=b.slices[::-1]),
        lambda b: replace(b, sigma=math.nextafter(b.sigma, 99)),
        lambda b: replace(b, scorer_id="b" * 64),
        lambda b: replace(b, match=("quality",)),
        lambda b: replace(b, router=None),
        lambda b: replace(b, features=None),
        lambda b: replace(b, members=b.members[:-1]),
        lambda b: replace(b, members=(replace(b.members[0], sha256="0" * 64), *b.members[1:])),
        lambda b: replace(b, members=(replace(b.members[0], domain="art"), *b.members[1:])),
    ],
    ids=[
        "points", "dtype", "weights", "domain", "error", "patches", "order", "sigma", "scorer", "match", "router", "features",
        "fewer members", "member bytes", "member domain",
    ],
)  # fmt: skip
def test_the_bank_id_changes_with_every_part_that_changes_a_number(change: Callable[[Bank], Bank]) -> None:
    assert change(bank()).bank_id != bank().bank_id


@pytest.mark.parametrize("name", [TENSORS, MEMBERS])
def test_one_flipped_byte_anywhere_in_a_data_file_is_refused_with_both_digests(name: str) -> None:
    files = bank().files()
    for position in range(0, len(files[name]), max(1, len(files[name]) // 60)):
        damaged = bytearray(files[name])
        damaged[position] ^= 1
        damaged_files = files | {name: bytes(damaged)}
        with pytest.raises(ArtifactError) as caught:
            bank_from_files(damaged_files.__getitem__)
        assert sha256_hex(bytes(damaged)) in str(caught.value)
        assert sha256_hex(files[name]) in str(caught.value)


def test_one_flipped_byte_in_the_card_is_refused_or_changes_no_number() -> None:
    made = bank()
    files = made.files()
    refused = 0
    for position in range(len(files[CARD])):
        damaged = bytearray(files[CARD])
        damaged[position] ^= 1
        try:
            read = bank_from_files((files | {CARD: bytes(damaged)}).__getitem__)
        except ArtifactError:
            refused += 1
            continue
        assert (read.bank_id, read.sigma, read.scorer_id) == (made.bank_id, made.sigma, made.scorer_id)
        assert [part.bank_term for part in read.slices] == [part.bank_term for part in made.slices]
    assert refused > 0.7 * len(files[CARD])


@pytest.mark.parametrize(("name", "value"), [("sigma", 2.5), ("scorer_id", "c" * 64), ("bank_id", "d" * 64)])
def test_an_edited_card_is_refused_with_both_ids(name: str, value: object) -> None:
    files = bank().files()
    card = json.loads(files[CARD]) | {name: value}
    with pytest.raises(ArtifactError, match=rf"digests to [0-9a-f]{{64}}, its card says {card['bank_id']}"):
        bank_from_files((files | {CARD: json.dumps(card).encode()}).__getitem__)


@pytest.mark.parametrize(("name", "value"), [("error", 0.0), ("patches", 1), ("images", 9), ("domain", "faces")])
def test_an_edited_certificate_is_refused(name: str, value: object) -> None:
    files = bank().files()
    card = json.loads(files[CARD])
    card["slices"][0][name] = value
    with pytest.raises(ArtifactError, match="digests to"):
        bank_from_files((files | {CARD: json.dumps(card).encode()}).__getitem__)


def test_a_bank_of_an_earlier_version_is_refused_with_what_to_do() -> None:
    card = json.dumps({"bank_id": "a", "name": "old", "sigma": 1.0}).encode()
    with pytest.raises(ArtifactError, match="'old' was built by an earlier version of this program; build it again"):
        bank_from_files({CARD: card}.__getitem__)


@pytest.mark.parametrize("card", [b"", b"[]", b"{}", b"7", b"\xff\xfe", b'{"files": [], "name": "x"}'])
def test_a_card_that_is_none_is_refused(card: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a bank directory"):
        bank_from_files((bank().files() | {CARD: card}).__getitem__)


def test_tensors_that_are_no_safetensors_are_refused_even_when_their_digest_is_right() -> None:
    files = bank().files()
    card = json.loads(files[CARD])
    card["files"][TENSORS] = sha256_hex(b"not safetensors")
    with pytest.raises(ArtifactError):
        bank_from_files((files | {CARD: json.dumps(card).encode(), TENSORS: b"not safetensors"}).__getitem__)


@pytest.mark.parametrize("name", [CARD, TENSORS, MEMBERS])
def test_a_missing_file_is_refused(name: str) -> None:
    files = bank().files()
    del files[name]
    with pytest.raises(ArtifactError, match=name):
        bank_from_files(files.__getitem__)


def test_slices_with_too_few_images_are_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="at least 3 images for the bank: 'art' has 1, 'faces' has 2"):
        require_slices({"photo": 9, "faces": 2, "art": 1}, 3, "bank")
    require_slices({"photo": 3}, 3, "bank")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_signatures_that_are_not_finite_are_refused(value: float) -> None:
    signatures = normal(50, 4, 0)
    require_finite(signatures, "a.jpg")
    signatures[49, 3] = value
    with pytest.raises(ArtifactError, match=r"a\.jpg hold NaN or infinity"):
        require_finite(signatures, "a.jpg")


def test_the_manifest_is_plain_parquet_that_names_every_image() -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(bank().files()[MEMBERS])).to_pylist()
    assert [(row["key"], row["sha256"], row["licence"]) for row in rows] == [(m.key, m.sha256, "CC0-1.0") for m in members()]
