"""Whoever plans, follows, lands or closes needs no network and no GPU; whoever scores checks that it has the planned one."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fabricate import outcome_of, write_shard
from prefect.logging import disable_run_logger

from mdmf_core.digests import short_id
from mdmf_core.errors import ArtifactError, MdmfError
from mdmf_core.scoring.scorer_files import scorer_files
from tasks.runs import steps
from tasks.runs.fan_out import steps as corpus_steps
from tasks.runs.fan_out.follower import Ended
from tasks.runs.settings import CurateSettings, ResolvedSettings
from tasks.scoring import loading
from tasks.warehouse.questions import query


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which no scorer can be loaded; loggers need no run."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network is loaded")

    monkeypatch.setattr(loading, "load_scorer", refused)
    with disable_run_logger():
        yield


def settings_of(folder: Path, scorer: str, bank: str, **more: object) -> CurateSettings:
    return CurateSettings(
        source=str(folder / "*.tar"), warehouse=str(folder / "w.duckdb"), scorer=scorer, bank=bank, calibration=None,
        shards_per_task=4, storage_block=None, **more,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_driver_without_a_gpu_plans_and_opens_a_run_whose_workers_have_one(
    tmp_path, tiny_scorer, tiny_bank, setup, no_network
):
    write_shard(tmp_path / "00000.tar", range(2))
    settings = settings_of(tmp_path, tiny_scorer, tiny_bank, engine="ray", num_gpus=1, num_cpus=2, device="cuda").resolved()
    run_id = str(uuid.uuid4())
    assert settings.key == setup.key
    assert steps.plan.fn(settings, run_id).to_do == 1
    (row,) = query(settings.where, "SELECT state, device, scorer_id::VARCHAR AS scorer FROM runs").to_dict("records")
    assert row == {
        "state": "running", "device": "ray: 2 cores and 1 GPUs a task", "scorer": str(short_id(setup.scorer.scorer_id)),
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_process_that_scores_refuses_a_device_that_is_not_there(tmp_path, tiny_scorer, tiny_bank):
    settings = settings_of(tmp_path, tiny_scorer, tiny_bank, engine="ray", device="cuda").resolved()
    with pytest.raises(ValueError, match="device 'cuda' is not there"):
        settings.setup()


def test_a_parent_of_child_runs_loads_no_network(tmp_path, tiny_scorer, tiny_bank, setup, no_network):
    source = write_shard(tmp_path / "00000.tar", range(2))
    settings, run_id = settings_of(tmp_path, tiny_scorer, tiny_bank).resolved(), str(uuid.uuid4())
    plan, resumed = corpus_steps.plan_corpus.fn(settings, corpus_steps.corpus_work(settings), 1, True)
    assert (plan.portions, resumed) == (1, False)
    assert corpus_steps.open_corpus.fn(settings, run_id)
    steps.land_group.fn(settings, [outcome_of(source, settings.warehouse, setup)])
    assert corpus_steps.portion_result(settings, plan.path, Ended(0, "it died")).scored == 2
    steps.close_run.fn(settings, run_id, [], {})
    (device,) = query(settings.where, "SELECT device FROM runs")["device"]
    assert device == "child runs, each on auto"


def test_a_report_says_why_it_has_no_maps_where_no_scorer_can_be_loaded(tmp_path, tiny_scorer, tiny_bank, setup, monkeypatch):
    source = write_shard(tmp_path / "00000.tar", range(2))
    settings, run_id = settings_of(tmp_path, tiny_scorer, tiny_bank).resolved(), str(uuid.uuid4())
    corpus_steps.open_corpus.fn(settings, run_id)

    def gone(*_: object) -> None:
        raise MdmfError("the weights are elsewhere")

    with disable_run_logger():
        steps.land_group.fn(settings, [outcome_of(source, settings.warehouse, setup)])
        monkeypatch.setattr(loading, "load_scorer", gone)
        page = steps.report.fn(settings, scored_here=False)
        assert "the weights are elsewhere" in Path(page).read_text()
        with pytest.raises(MdmfError, match="the weights are elsewhere"):
            steps.report.fn(settings, scored_here=True)


def test_weights_that_are_not_those_of_the_plan_are_refused_with_both_digests(tmp_path, tiny_scorer, tiny_bank, setup):
    settings = settings_of(tmp_path, tiny_scorer, tiny_bank).resolved()
    other = replace(settings.key, scorer_id="f" * 64)
    with pytest.raises(ArtifactError, match=f"scorer_id is {setup.scorer.scorer_id}, planned was {'f' * 64}"):
        settings.model_copy(update={"key": other}).setup()


def test_a_scorer_directory_states_its_id_and_who_loads_it_computes_it(tmp_path, tiny_scorer, tiny_bank, setup):
    folder = tmp_path / "scorer"
    folder.mkdir()
    for name, data in scorer_files(setup.scorer, tiny_scorer, {}).items():
        (folder / name).write_bytes(data)
    settings = settings_of(tmp_path, str(folder), tiny_bank).resolved()
    assert isinstance(settings, ResolvedSettings)
    assert settings.key == settings.setup().key == setup.key
    card = folder / "scorer.json"
    card.write_text(card.read_text().replace(setup.scorer.scorer_id, "a" * 64))
    with pytest.raises(ArtifactError, match=f"built with scorer {setup.scorer.scorer_id}, but the scorer in use is {'a' * 64}"):
        settings_of(tmp_path, str(folder), tiny_bank).resolved()
    loading.load_scorer.cache_clear()
    with pytest.raises(ArtifactError, match=f"digests to {setup.scorer.scorer_id}, its card says {'a' * 64}"):
        settings.setup()
