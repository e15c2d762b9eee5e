"""Coresets with a certificate, and banks as immutable files."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdmf_core.banks import CARD, MEMBERS, TENSORS, Bank, BankMember, bank_from_files, build_bank
from mdmf_core.coreset import herding, kernel_means
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ArtifactError
from mdmf_core.kernels import gaussian, median_heuristic
from mdmf_core.mmd import density


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def members(n: int = 3) -> tuple[BankMember, ...]:
    return tuple(BankMember("shard-0.tar", f"{i:05d}", sha256_hex(bytes([i])), licence="CC0-1.0") for i in range(n))


def bank(seed: int = 0) -> Bank:
    return build_bank("photos", "a" * 64, normal(120, 4, seed), members(), 20, None)


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
    monkeypatch.setattr("mdmf_core.coreset._BLOCK", 7)
    torch.testing.assert_close(kernel_means(points, 0.9), expected, rtol=0, atol=1e-14)


def test_the_bank_term_is_the_weighted_mean_kernel_between_its_points() -> None:
    made = Bank(
        "b", "s", normal(6, 3, 1), torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1], dtype=torch.float64), 1.2, 0.0, 6, members()
    )
    expected = sum(
        float(made.weights[i] * made.weights[j])
        * math.exp(-float((made.points[i].double() - made.points[j].double()).square().sum()) / (2 * 1.2**2))
        for i in range(6)
        for j in range(6)
    )
    assert made.bank_term == pytest.approx(expected, abs=1e-14)


def test_a_bank_takes_the_learned_bandwidth_or_the_median_of_its_patches() -> None:
    signatures = normal(120, 4, 0)
    assert build_bank("b", "s", signatures, members(), 20, 0.77).sigma == 0.77
    assert build_bank("b", "s", signatures, members(), 20, None).sigma == median_heuristic(signatures)


def test_a_bank_holds_no_more_points_than_patches_and_states_how_many_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    small = build_bank("b", "s", normal(15, 4, 0), members(), 1000, 1.0)
    assert (len(small.points), small.patches) == (15, 15)
    monkeypatch.setattr("mdmf_core.banks._COVER", 50)
    signatures = normal(120, 4, 0)
    strided = build_bank("b", "s", signatures, members(), 10, 1.0)
    assert strided.patches == 120
    considered = signatures[::3]
    assert strided.coreset_error == pytest.approx(
        biased_mmd(considered, uniform(40), strided.points, uniform(10), 1.0), abs=1e-7
    )


def test_a_bank_survives_its_files_unchanged() -> None:
    made = bank()
    read = bank_from_files(made.files().__getitem__)
    assert torch.equal(read.points, made.points)
    assert torch.equal(read.weights, made.weights)
    scalars = ("name", "scorer_id", "sigma", "coreset_error", "patches", "members", "bank_term", "bank_id")
    assert [getattr(read, name) for name in scalars] == [getattr(made, name) for name in scalars]


def test_the_same_patches_give_the_same_bank_and_the_same_files() -> None:
    assert bank().bank_id == bank().bank_id
    assert bank().files() == bank().files()


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, points=b.points.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(9.0))),
        lambda b: replace(b, points=b.points.double()),
        lambda b: replace(b, weights=b.weights.flip(0) * torch.linspace(0.9, 1.1, 20, dtype=torch.float64)),
        lambda b: replace(b, sigma=math.nextafter(b.sigma, 99)),
        lambda b: replace(b, scorer_id="b" * 64),
        lambda b: replace(b, members=b.members[:-1]),
        lambda b: replace(b, members=(replace(b.members[0], sha256="0" * 64), *b.members[1:])),
        lambda b: replace(b, members=(replace(b.members[0], domain="art"), *b.members[1:])),
    ],
    ids=["points", "dtype", "weights", "sigma", "scorer", "fewer members", "member bytes", "member domain"],
)
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
        assert (read.bank_id, read.sigma, read.scorer_id, read.bank_term) == (
            made.bank_id,
            made.sigma,
            made.scorer_id,
            made.bank_term,
        )
    assert refused > 0.7 * len(files[CARD])


@pytest.mark.parametrize(("name", "value"), [("sigma", 2.5), ("scorer_id", "c" * 64), ("bank_id", "d" * 64)])
def test_an_edited_card_is_refused_with_both_ids(name: str, value: object) -> None:
    files = bank().files()
    card = json.loads(files[CARD]) | {name: value}
    with pytest.raises(ArtifactError, match=rf"digests to [0-9a-f]{{64}}, its card says {card['bank_id']}"):
        bank_from_files((files | {CARD: json.dumps(card).encode()}).__getitem__)


@pytest.mark.parametrize(("name", "value"), [("coreset_error", 0.0), ("patches", 1)])
def test_an_edited_certificate_is_refused(name: str, value: object) -> None:
    files = bank().files()
    card = json.loads(files[CARD]) | {name: value}
    with pytest.raises(ArtifactError):
        bank_from_files((files | {CARD: json.dumps(card).encode()}).__getitem__)


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


def test_a_bank_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 real images, got 1"):
        build_bank("b", "s", normal(50, 4, 0), members(1), 20, None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_signatures_that_are_not_finite_are_refused(value: float) -> None:
    signatures = normal(50, 4, 0)
    signatures[49, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        build_bank("b", "s", signatures, members(), 20, None)


def test_the_manifest_is_plain_parquet_that_names_every_image() -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(bank().files()[MEMBERS])).to_pylist()
    assert [(row["key"], row["sha256"], row["licence"]) for row in rows] == [(m.key, m.sha256, "CC0-1.0") for m in members()]
