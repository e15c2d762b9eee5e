"""Reference banks: immutable, content-addressed sets of real patches."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mdmf_core.coreset import herding
from mdmf_core.digests import digest_of, sha256_hex, tensors_digest
from mdmf_core.errors import ArtifactError
from mdmf_core.kernels import gaussian, median_heuristic

CARD, TENSORS, MEMBERS = "bank.json", "bank.safetensors", "members.parquet"
_COVER = 20_000  # patches that the coreset is chosen from; more cost time, not accuracy, at bank sizes of 1,000


@dataclass(frozen=True)
class BankMember:
    """One real image whose patches are in the bank."""

    source: str
    key: str
    sha256: str
    domain: str = "photo"
    licence: str | None = None


@dataclass(frozen=True)
class Bank:
    """Weighted PFS points of real images with their bandwidth, and the images they came from."""

    name: str
    scorer_id: str
    points: Float[Tensor, "m d"]
    weights: Float[Tensor, " m"]
    sigma: float
    coreset_error: float  # MMD(all patches considered, these points); bounds every score's error
    patches: int  # patches that the points stand for
    members: tuple[BankMember, ...]
    bank_term: float = field(init=False)  # c_B = sum_ij w_i w_j k(b_i, b_j)

    def __post_init__(self) -> None:
        kernel = gaussian(self.points.double(), self.points.double(), self.sigma)
        weights = self.weights.double()
        object.__setattr__(self, "bank_term", float(weights @ kernel @ weights))

    @property
    def bank_id(self) -> str:
        """sha256 over everything that changes a number, the certificate and the manifest."""
        return digest_of(
            {
                "scorer_id": self.scorer_id,
                "tensors": tensors_digest({"points": self.points, "weights": self.weights}),
                "sigma": self.sigma,
                "coreset_error": self.coreset_error,
                "patches": self.patches,
                "members": digest_of({"members": [[m.source, m.key, m.sha256, m.domain] for m in self.members]}),
            }
        )

    def files(self) -> dict[str, bytes]:
        """The bank as files of one directory."""
        tensors = save({"points": self.points.contiguous(), "weights": self.weights.contiguous()})
        table = pa.Table.from_pylist([member.__dict__ for member in self.members])
        manifest = io.BytesIO()
        pq.write_table(table, manifest)
        card = {
            "bank_id": self.bank_id,
            "name": self.name,
            "scorer_id": self.scorer_id,
            "sigma": self.sigma,
            "coreset_error": self.coreset_error,
            "patches": self.patches,
            "points": len(self.points),
            "images": len(self.members),
            "files": {TENSORS: sha256_hex(tensors), MEMBERS: sha256_hex(manifest.getvalue())},
        }
        return {TENSORS: tensors, MEMBERS: manifest.getvalue(), CARD: json.dumps(card, indent=2).encode() + b"\n"}


def bank_from_files(read: Callable[[str], bytes]) -> Bank:
    """Reads a bank directory and checks every digest in it.

    Raises:
        ArtifactError: a file is missing, damaged, or not what the card says.
    """
    try:
        card: dict[str, Any] = json.loads(read(CARD))
        contents = {name: read(name) for name in (TENSORS, MEMBERS)}
        for name, data in contents.items():
            if sha256_hex(data) != card["files"][name]:
                raise ArtifactError(
                    f"{name} of bank {card['name']!r} has sha256 {sha256_hex(data)}, its card says {card['files'][name]}"
                )
        tensors = load(contents[TENSORS])
        rows = pq.read_table(io.BytesIO(contents[MEMBERS])).to_pylist()
        bank = Bank(
            name=card["name"],
            scorer_id=card["scorer_id"],
            points=tensors["points"],
            weights=tensors["weights"],
            sigma=card["sigma"],
            coreset_error=card["coreset_error"],
            patches=card["patches"],
            members=tuple(BankMember(**row) for row in rows),
        )
        stated = card["bank_id"]
    except (KeyError, TypeError, ValueError, SafetensorError, pa.ArrowException) as error:
        raise ArtifactError(f"not a bank directory: {type(error).__name__}: {error}") from error
    if bank.bank_id != stated:
        raise ArtifactError(f"bank {bank.name!r} digests to {bank.bank_id}, its card says {stated}")
    return bank


def build_bank(
    name: str,
    scorer_id: str,
    signatures: Float[Tensor, "n d"],
    members: Sequence[BankMember],
    points: int,
    sigma: float | None,
) -> Bank:
    """Compresses the patches of real images to ``points`` by kernel herding.

    Args:
        signatures: PFS of every patch of every member, in the order of ``members``.
        sigma: the scorer's learned bandwidth; None = median heuristic on these patches.

    Raises:
        ValueError: fewer than 2 images, or signatures that are not finite.
    """
    if len(members) < 2:
        raise ValueError(f"a bank needs at least 2 real images, got {len(members)}")
    if not bool(torch.isfinite(signatures).all()):
        raise ValueError("signatures hold NaN or infinity; the bank was not built")
    considered = signatures[:: -(-len(signatures) // _COVER)]
    bandwidth = median_heuristic(considered) if sigma is None else sigma
    size = min(points, len(considered))
    indices, error = herding(considered, size, bandwidth)
    return Bank(
        name=name,
        scorer_id=scorer_id,
        points=considered[indices].float(),
        weights=torch.full((size,), 1.0 / size, dtype=torch.float64),
        sigma=bandwidth,
        coreset_error=error,
        patches=len(signatures),
        members=tuple(members),
    )
