"""Shared fixtures: a tiny real ViT with its bank, a Prefect server, the curate flow."""

import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Before Prefect is imported: tests touch no user profile, send nothing, and start no server unless they ask for one.
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
# The default scorer passes a large network for every crop; what most tests are about shows in the small one as well.
os.environ["MDMF_SCORER"] = "forensic"

import pytest
import s3fs
import timm
import torch
from fabricate import build_settings, encoded, open_warehouse, outcome_of, write_shard
from fault_proxy import FaultProxy, fault_proxy
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from s3_server import KEY, SECRET, conditional_s3, s3_server
from safetensors.torch import save_file

from tasks.banks.build import build
from tasks.scoring.loading import load_scorer, load_setup
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.storage import retries as faults
from tasks.warehouse.address import Embedded
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

TINY_VIT = "test_vit"


@pytest.fixture(scope="session")
def tiny_scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a real timm ViT with seeded weights: the smallest of timm's, a tenth of ViT-Ti's time an image."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model(TINY_VIT, pretrained=False, img_size=224).state_dict(), weights)
    return f"timm:{TINY_VIT}?weights={weights}"


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 80 images that stand for real ones."""
    folder = tmp_path_factory.mktemp("real")
    for seed in range(1000, 1080):
        (folder / f"{seed}.jpg").write_bytes(encoded(seed))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bank(tiny_scorer: str, real_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bank directory for ``tiny_scorer``, with calibration."""
    store = str(tmp_path_factory.mktemp("banks"))
    return build(build_settings(real_folder, store, tiny_scorer), load_scorer(tiny_scorer, "cpu")).directory


@pytest.fixture(scope="session")
def setup(tiny_scorer: str, tiny_bank: str) -> ScoringSetup:
    """Loads what one process scores with: tiny scorer, bank and calibration."""
    return load_setup(tiny_scorer, tiny_bank, "cpu", 8, 1, None)


@pytest.fixture(scope="session")
def three_shards(setup: ScoringSetup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a warehouse of three shards, their parts, and one exclusion of each kind: with and without an image."""
    folder = tmp_path_factory.mktemp("landed")
    warehouse = open_warehouse(folder / "w.duckdb", setup)
    extra = {"x.html": b"<html>", "small.png": encoded(7, "PNG", width=100, height=100)}
    for number in range(3):
        source = write_shard(folder / f"0000{number}.tar", range(10 * number, 10 * number + 3), extra)
        land(Warehouse.at(warehouse), [outcome_of(source, warehouse, setup)], setup.key)
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Prefect server with a database of its own, for tests that run flows."""
    home = tmp_path_factory.mktemp("prefect")
    with (
        temporary_settings(
            {
                PREFECT_HOME: home,
                PREFECT_LOCAL_STORAGE_PATH: home / "storage",
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            }
        ),
        prefect_test_harness(server_startup_timeout=180),
    ):
        yield


@pytest.fixture
def curate(prefect_server: None, tiny_scorer: str, tiny_bank: str, tmp_path: Path) -> Callable[..., object]:
    """Gives the curate flow with the tiny scorer and a warehouse in ``tmp_path`` as its defaults."""
    from flows.curate import curate as flow

    def run(source: object, **parameters: object) -> object:
        defaults = {"warehouse": str(tmp_path / "warehouse.duckdb"), "scorer": tiny_scorer, "bank": tiny_bank}
        return flow(source=str(source), **defaults | parameters)

    return run


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Runs an S3 server; gives the folder behind its bucket `corpus` and its endpoint URL."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def signed_in(bucket: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets the AWS variables for the bucket `corpus` and gives the folder behind it."""
    folder, endpoint = bucket
    _sign_in(monkeypatch, endpoint)
    return folder


def _sign_in(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def sign_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives a function that sets the AWS variables for another endpoint."""
    return partial(_sign_in, monkeypatch)


@pytest.fixture(scope="session")
def conditional_endpoint() -> Iterator[str]:
    """Runs an S3 server that heeds conditional PUTs and gives its endpoint URL."""
    with conditional_s3() as endpoint:
        yield endpoint


@pytest.fixture
def lake(conditional_endpoint: str, sign_in: Callable[[str], None]) -> str:
    """Makes a bucket of the test's own where conditional PUTs are heeded, sets the AWS variables, and gives a prefix in it."""
    sign_in(conditional_endpoint)
    bucket = f"lake-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/w.parts"


@pytest.fixture
def proxied(signed_in: Path, bucket: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that breaks requests to the bucket, and limits so small that no test waits for long."""
    limits = faults.StorageLimits(tries=12, small_tries=6, page_tries=1, pause=0.001, longest_pause=0.01)
    monkeypatch.setattr(faults, "LIMITS", limits)
    with fault_proxy(bucket[1]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def parts_in_lake(lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Moves the parts of every embedded warehouse into a bucket for the length of a test, as a lake's on S3; gives where."""
    real = Embedded.beside
    monkeypatch.setattr(Embedded, "beside", lambda self, suffix: lake if suffix == ".parts" else real(self, suffix))
    return lake
