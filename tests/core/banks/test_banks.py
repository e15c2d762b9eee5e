"""Banks as immutable files."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdmf_core.banks.bank import (
    CARD,
    MEMBERS,
    TENSORS,
    Bank,
    BankMember,
    Slice,
    bank_from_files,
    require_finite,
    require_slices,
)
from mdmf_core.banks.domains import Router
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ArtifactError
from mdmf_core.mmd.coreset import compress


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
