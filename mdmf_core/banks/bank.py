"""Reference banks are immutable, content-addressed sets of real patches, in slices by domain."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mdmf_core.banks.domains import Router
from mdmf_core.choices import Condition
from mdmf_core.digests import digest_of, sha256_hex, tensors_digest
from mdmf_core.errors import ArtifactError
from mdmf_core.mmd.coreset import Coreset, kernel_means

CARD, TENSORS, MEMBERS = "bank.json", "bank.safetensors", "members.parquet"


@dataclass(frozen=True)
class BankMember:
    """One real image whose patches are in the bank. ``domain`` names its slice."""

    source: str
    key: str
    sha256: str
    domain: str = "photo"
    licence: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    jpeg_quality: int | None = None
    score: float | None = None  # of the image against the finished bank; does not enter the bank's id


_MEMBERS = pa.schema(
    [("source", pa.string()), ("key", pa.string()), ("sha256", pa.string()), ("domain", pa.string()), ("licence", pa.string()),
     ("format", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("jpeg_quality", pa.int32()),
     ("score", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """The weighted PFS points that stand for the real images of one domain.

    ``error`` is the certificate: |MMD(X, all patches) - MMD(X, points)| <= error.
    """

    domain: str
    points: Float[Tensor, "m d"]
    weights: Float[Tensor, " m"]
    error: float
    patches: int  # that the points stand for
    images: int
    sigma: float
    bank_term: float = field(init=False)  # c_B = sum_ij w_i w_j k(b_i, b_j)

    def __post_init__(self) -> None:
        weights = self.weights.double()
        object.__setattr__(self, "bank_term", float(weights @ kernel_means(self.points, self.sigma, weights)))

    @classmethod
    def of(cls, domain: str, coreset: Coreset, images: int, sigma: float) -> "Slice":
        return cls(domain, coreset.points, coreset.weights, coreset.error, coreset.source_points, images, sigma)


@dataclass(frozen=True)
class Bank:
    """Slices of one scorer's signatures with their bandwidth, and the images that they came from.

    Args:
        match: the conditions by which domains were cut into finer slices.
        router: tells which domains an image may belong to; None = one domain.
    """

    name: str
    scorer_id: str
    slices: tuple[Slice, ...]
    sigma: float
    members: tuple[BankMember, ...]
    match: tuple[Condition, ...] = ()
    router: Router | None = None
    features: Float[Tensor, "members r"] | None = None  # of every member, on its slice's points: see ``health.FeatureMap``

    @property
    def bank_id(self) -> str:
        """The sha256 over everything that changes a number, the certificates and the manifest, without the bank's name."""
        return digest_of(
            {
                "scorer_id": self.scorer_id,
                "tensors": tensors_digest(self._tensors()),
                "sigma": self.sigma,
                "match": list(self.match),
                "slices": [[s.domain, s.error, s.patches, s.images] for s in self.slices],
                "members": digest_of({"members": [[m.source, m.key, m.sha256, m.domain] for m in self.members]}),
            }
        )

    @property
    def points(self) -> int:
        """Counts the points of all slices together."""
        return sum(len(s.points) for s in self.slices)

    @property
    def patches(self) -> int:
        """Counts the patches that the points stand for."""
        return sum(s.patches for s in self.slices)

    @property
    def coreset_error(self) -> float:
        """The largest certificate of any slice."""
        return max(s.error for s in self.slices)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {} if self.router is None else self.router.tensors()
        if self.features is not None:
            tensors["features"] = self.features.contiguous()
        for number, part in enumerate(self.slices):
            tensors |= {f"{number}.points": part.points.contiguous(), f"{number}.weights": part.weights.contiguous()}
        return tensors

    def files(self) -> dict[str, bytes]:
        """Returns the bank as the files of one directory."""
        tensors = save(self._tensors())
        manifest = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist([asdict(member) for member in self.members], schema=_MEMBERS), manifest, compression="zstd"
        )
        card = {
            "bank_id": self.bank_id,
            "name": self.name,
            "scorer_id": self.scorer_id,
            "sigma": self.sigma,
            "match": list(self.match),
            "slices": [
                {"domain": s.domain, "points": len(s.points), "error": s.error, "patches": s.patches, "images": s.images}
                for s in self.slices
            ],
            "router": None if self.router is None else list(self.router.domains),
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
        if "slices" not in card and "bank_id" in card:
            raise ArtifactError(f"bank {card.get('name')!r} was built by an earlier version of this program; build it again")
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
            slices=tuple(
                Slice(
                    s["domain"], tensors[f"{number}.points"], tensors[f"{number}.weights"], s["error"], s["patches"],
                    s["images"], card["sigma"],
                )
                for number, s in enumerate(card["slices"])
            ),
            sigma=card["sigma"],
            members=tuple(BankMember(**row) for row in rows),
            match=tuple(card["match"]),
            router=None if card["router"] is None else Router.from_tensors(card["router"], tensors),
            features=tensors.get("features"),
        )  # fmt: skip
        stated = card["bank_id"]
    except (KeyError, TypeError, ValueError, SafetensorError, pa.ArrowException) as error:
        raise ArtifactError(f"not a bank directory: {type(error).__name__}: {error}") from error
    if bank.bank_id != stated:
        raise ArtifactError(f"bank {bank.name!r} digests to {bank.bank_id}, its card says {stated}")
    return bank


def domain_of(slice_domain: str) -> str:
    """The domain of a slice, without the conditions that ``slice_name`` adds."""
    return slice_domain.partition(", ")[0]


def require_slices(images: dict[str, int], least: int, what: str) -> None:
    """Raises ArtifactError where a slice has fewer than ``least`` images."""
    few = {name: count for name, count in sorted(images.items()) if count < least}
    if few:
        listed = ", ".join(f"{name!r} has {count}" for name, count in few.items())
        raise ArtifactError(
            f"every slice needs at least {least} images for the {what}: {listed}. Add images, or cut fewer slices"
        )


def require_finite(signatures: Float[Tensor, "n d"], key: str) -> None:
    """Raises ArtifactError for signatures with NaN or infinity: nothing is built on them."""
    if not bool(torch.isfinite(signatures).all()):
        raise ArtifactError(f"the signatures of {key} hold NaN or infinity; the bank was not built")
