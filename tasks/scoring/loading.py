"""Scorers, banks and calibrations are found by name, path or URL, and loaded once a process."""

import json
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

import torch

from mdmf_core.banks.bank import CARD as BANK
from mdmf_core.banks.bank import Bank, bank_from_files
from mdmf_core.banks.calibration import CARD as CALIBRATION
from mdmf_core.banks.calibration import Calibration, calibration_from_file, require_disjoint, require_match
from mdmf_core.digests import short_id
from mdmf_core.errors import ArtifactError, SourceError
from mdmf_core.scoring.backbone_address import is_backbone
from mdmf_core.scoring.scorer import Scorer
from mdmf_core.scoring.scorer_files import CARD as SCORER
from mdmf_core.scoring.scorer_files import (
    backbone_card,
    backbone_scorer,
    card_from_files,
    choose_device,
    compiled,
    scorer_from_files,
)
from tasks.scoring.cpu_threads import keep_freed_memory
from tasks.scoring.scoring_setup import Lineage, ScoringSetup, sizes
from tasks.storage.checked_reads import read_bytes
from tasks.storage.filesystems import absolute
from tasks.warehouse.migrations import migrate
from tasks.warehouse.registry import find
from tasks.warehouse.warehouse import Warehouse
from tasks.weights.cache import weights_file

DEFAULT = "default"


def _is_bundled(reference: str) -> bool:
    """Whether a reference is a bare name, which means a scorer of this package, rather than a folder or a URL."""
    return "/" not in reference and not os.path.isdir(reference)


def _bundled() -> list[str]:
    return sorted(entry.name for entry in files("scorers").iterdir() if (entry / SCORER).is_file())


def bundled_with(bank_id: str) -> str | None:
    """The bundled scorer whose bank this is. A name such as ``default`` may mean another bank than when it was written down.

    Args:
        bank_id: the bank's id as a warehouse keeps it.
    """
    cards = ((name, json.loads((files("scorers") / name / "bank" / BANK).read_text())) for name in _bundled())
    return next((name for name, card in cards if str(short_id(card["bank_id"])) == bank_id), None)


def _directory(reference: str, kind: str, storage_block: str | None) -> Callable[[str], bytes]:
    """Returns a reader of the files in a directory by name, path or URL; MDMF_SCORER says what ``default`` means here."""
    if not reference.strip():
        raise ArtifactError(f"the {kind}'s name is empty: leave the option out, or name a folder")
    if reference == DEFAULT:
        reference = os.environ.get("MDMF_SCORER", DEFAULT)
    if _is_bundled(reference):
        bundled = files("scorers") / reference
        if not bundled.is_dir():
            raise ArtifactError(f"no {kind} {reference!r}: neither a folder nor one of the bundled {', '.join(_bundled())}")
        location = bundled / "bank" if kind == "bank" else bundled
        return lambda name: (location / name).read_bytes()

    def read(name: str) -> bytes:
        try:
            return read_bytes(f"{reference.rstrip('/')}/{name}", storage_block)
        except SourceError as error:
            raise ArtifactError(f"{kind} {reference!r}: {error}") from error

    return read


@lru_cache(maxsize=2)
def load_scorer(reference: str, device: str, storage_block: str | None = None, compile: bool = False) -> Scorer:
    """Returns the scorer that ``reference`` means: ``default``, ``forensic``, a scorer directory, or a backbone by its address.

    Raises:
        ArtifactError, ValueError: in one sentence, what is wrong with it.
    """
    if compile:
        return compiled(load_scorer(reference, device, storage_block))
    if is_backbone(reference):
        return load_backbone(reference, device)
    return scorer_from_files(_directory(reference, "scorer", storage_block), *_device(device), weights_file)


@lru_cache(maxsize=2)
def load_backbone(address: str, device: str) -> Scorer:
    """A scorer on a backbone's raw tokens; here ``forensic`` means the hand-made statistics and not the bundled scorer.

    Raises:
        ArtifactError, ValueError: in one sentence, what is wrong with it.
    """
    return backbone_scorer(address, *_device(device), weights_file)


def _device(wanted: str) -> tuple[torch.device, torch.dtype | None]:
    device, autocast = choose_device(wanted)
    if device.type == "cpu":
        keep_freed_memory()
    return device, autocast


@lru_cache(maxsize=4)
def load_bank(reference: str, calibration_url: str | None = None, storage_block: str | None = None) -> tuple[Bank, Calibration]:
    """Loads the bank in a directory, and the calibration beside it or the one in another file.

    Raises:
        ArtifactError: missing, damaged, or calibrated on the bank's own images.
    """
    read = _directory(reference, "bank", storage_block)
    try:
        data = read(CALIBRATION) if calibration_url is None else read_bytes(calibration_url, storage_block)
    except SourceError as error:
        raise ArtifactError(f"calibration {calibration_url}: {error}") from error
    bank, calibration = bank_from_files(read), calibration_from_file(data)
    require_disjoint(bank, [sha256 for part in calibration.slices for sha256 in part.sha256s])
    return bank, calibration


def resolve_bank(warehouse: Warehouse, scorer: str, bank: str, calibration: str | None) -> tuple[str, str | None]:
    """Says where the bank and calibration lie that the references mean; None = the calibration in the bank's directory.

    Args:
        bank: ``default``: the scorer's own. A directory or URL. ``name@3``, ``name`` or ``@alias`` in the warehouse's registry.
        calibration: None, a number of the registry, or a file's path or URL.

    Raises:
        ArtifactError: a name, number or alias that the registry does not know.
    """
    named = bank != DEFAULT and "/" not in bank and not os.path.isdir(bank)
    if not named:
        if calibration is not None and calibration.isdigit():
            raise ArtifactError(
                f"calibration {calibration} is a number in the registry; name the bank as NAME@VERSION or @alias"
            )
        return own_bank(scorer) if bank == DEFAULT else bank, calibration
    number = int(calibration) if calibration is not None and calibration.isdigit() else None
    if not warehouse.exists():
        raise ArtifactError(
            f"no bank {bank!r}: it is no folder, and there is no warehouse at {warehouse.spelled} whose registry knows it"
        )
    with warehouse.connect() as connection:
        migrate(connection)
        entry = find(connection, bank, number)
    if entry.url is None:
        raise ArtifactError(f"the registry does not know where {entry.title} lies; pass its directory")
    if entry.retired:
        raise ArtifactError(f"{entry.title} is retired; pass its directory {entry.url} to use it all the same")
    url = bundled_with(entry.bank_id) or entry.url
    return url, calibration if calibration is not None and number is None else entry.calibration_url


def load_lineage(scorer: str, bank: str, calibration: str | None, storage_block: str | None) -> Lineage:
    """Scorer, bank and calibration as their files state them, for a process that scores nothing: no network is built.

    The id of a bare backbone is the one that the bank was built with. ``load_setup``, in the process that scores, computes the
    id from the weights and refuses another one.

    Raises:
        ArtifactError: a file is missing or damaged, or they do not belong together; both digests are named.
    """
    card = None if is_backbone(scorer) else card_from_files(_directory(scorer, "scorer", storage_block))
    reference = own_bank(scorer) if bank == DEFAULT else bank
    loaded, calibrated = load_bank(reference, calibration, storage_block)
    card = card or backbone_card(scorer, loaded.scorer_id)
    require_match(card.scorer_id, loaded, calibrated)
    return Lineage(card, loaded, calibrated, _absolute(reference), calibration)


def load_setup(
    scorer: str,
    bank: str,
    device: str,
    batch_images: int,
    decode_threads: int,
    storage_block: str | None,
    calibration: str | None = None,
    keep_signatures: float = 0.0,
    compile: bool = False,
    cores: int | None = None,
) -> ScoringSetup:
    """Everything that one process scores with, checked to belong together; bank and calibration as ``resolve_bank`` gives them.

    Args:
        decode_threads: 0 = one per core that the backbone leaves free.
        cores: of this machine that may be used; all of them by default.

    Raises:
        ArtifactError: the bank or its calibration was made for another scorer; both digests are named.
    """
    loaded = load_scorer(scorer, device, storage_block, compile)
    if bank == DEFAULT:
        bank = own_bank(scorer)
    reference, calibrated = load_bank(bank, calibration, storage_block)
    require_match(loaded.scorer_id, reference, calibrated)
    cuda = loaded.device.type == "cuda"
    threads = decode_threads or max(1, (cores or os.cpu_count() or 1) - (0 if cuda else 1))
    crops, passes = sizes(loaded.crops, batch_images, cuda)
    backbones = 1 if cuda or compile else torch.get_num_threads()  # of this group's cores, or of OMP_NUM_THREADS
    return ScoringSetup(
        loaded, reference, calibrated, _absolute(bank), calibration, crops, passes, backbones, threads, keep_signatures
    )


def _absolute(bank: str) -> str:
    """A bank's directory as the registry keeps it."""
    return bank if _is_bundled(bank) else absolute(bank)


def scorer_file(reference: str, name: str, storage_block: str | None = None) -> bytes | None:
    """Reads a further file of a scorer's directory; None where there is none."""
    if is_backbone(reference):
        return None
    try:
        return _directory(reference, "scorer", storage_block)(name)
    except (ArtifactError, FileNotFoundError):
        return None


def own_bank(scorer: str) -> str:
    """Says where the bank lies that belongs to a scorer.

    Raises:
        ArtifactError: a bare backbone, which has none.
    """
    if is_backbone(scorer):
        raise ArtifactError(
            f"{scorer!r} is a backbone without a bank of its own. "
            f"Build one: mdmf bank build REAL_IMAGES --scorer {scorer!r} --out DIR, then pass --bank DIR"
        )
    return scorer if _is_bundled(scorer) else f"{scorer.rstrip('/')}/bank"


def device_label(scorer: Scorer) -> str:
    """Names the scorer's device and compute dtype, as the row of a run states them."""
    name = torch.cuda.get_device_name(scorer.device) if scorer.device.type == "cuda" else "cpu"
    return f"{name} {str(scorer.autocast or torch.float32).removeprefix('torch.')}"
