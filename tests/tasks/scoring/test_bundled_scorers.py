"""The bundled scorers by name, and what the names in older warehouses mean today."""

import json

import pytest
from fabricate import ROOT

from mdmf_core.digests import short_id
from mdmf_core.errors import ArtifactError
from tasks.scoring.loading import bundled_with, load_backbone, load_bank, load_lineage, load_scorer, load_setup, resolve_bank
from tasks.warehouse.registry import register_bank, register_calibration, register_scorer
from tasks.warehouse.warehouse import Warehouse

# What "default" was up to commit b586786: rows under these ids must stay what they are.
FORMER_SCORER = "2bbd878807e63d6df0e8aa6b821fa9a35f9c774f3ef0fec8f159f7b5fc75bdff"
FORMER_BANK = "1d6f0b74b4cc9d327cfbc4cabcbceff9202820a6fb2130eeca347b162fda5da5"


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Loaded banks are kept by reference, and here the same reference means several."""
    load_bank.cache_clear()
    yield
    load_bank.cache_clear()


def card_of(name: str) -> dict:
    return json.loads((ROOT / "scorers" / name / "scorer.json").read_text())


def test_forensic_is_the_former_default_under_its_own_ids():
    setup = load_setup("forensic", "default", "cpu", 8, 1, None)
    assert (setup.scorer.scorer_id, setup.bank.bank_id) == (FORMER_SCORER, FORMER_BANK)
    assert setup.bank_url == "forensic"
    assert load_lineage("forensic", "default", None, None).bank.bank_id == FORMER_BANK


def test_forensic_as_a_backbone_is_the_bare_statistics():
    assert load_backbone("forensic", "cpu").signature is None
    assert load_scorer("forensic", "cpu").signature is not None


def test_the_default_scorer_names_its_weights_and_belongs_to_its_bank(monkeypatch):
    monkeypatch.delenv("MDMF_SCORER")
    lineage = load_lineage("default", "default", None, None)
    assert lineage.scorer.scorer_id == lineage.bank.scorer_id != FORMER_SCORER
    assert card_of("default")["backbone"]["address"] == "clip-b16"
    assert sum(path.stat().st_size for path in (ROOT / "scorers" / "default").rglob("*") if path.is_file()) < 10e6


def test_a_machine_can_say_what_default_means(monkeypatch):
    monkeypatch.setenv("MDMF_SCORER", "forensic")
    assert load_bank("default")[0].bank_id == FORMER_BANK
    load_bank.cache_clear()
    monkeypatch.setenv("MDMF_SCORER", "gone")
    with pytest.raises(ArtifactError, match=r"no bank 'gone': .* bundled default, forensic"):
        load_bank("default")


def test_a_bank_is_found_by_its_id_whatever_its_name_means_today(tmp_path):
    assert bundled_with(str(short_id(FORMER_BANK))) == "forensic"
    assert bundled_with(str(short_id("ab" * 32))) is None
    setup, warehouse = load_setup("forensic", "default", "cpu", 8, 1, None), Warehouse.at(str(tmp_path / "w.duckdb"))
    with warehouse.connect() as connection:
        from tasks.warehouse.migrations import migrate

        migrate(connection)
        register_scorer(connection, setup.scorer)
        register_bank(connection, setup.bank, "default")  # as a run of an earlier version wrote it
        register_calibration(connection, setup.calibration, None)
    assert resolve_bank(warehouse, "forensic", f"{setup.bank.name}@1", None)[0] == "forensic"
