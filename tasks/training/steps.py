"""The steps of training as Prefect tasks."""

import uuid
from collections.abc import Sequence
from typing import Any, cast

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from pydantic import BaseModel

from mdmf_core.training.labelled import deal_folds
from tasks.storage.publishing import require_new
from tasks.training.cross_validation import train
from tasks.training.dataset import TrainSettings
from tasks.training.labelled_sets import read_listing, write_listing
from tasks.training.scorer_directory import Trained
from tasks.training.token_cache import chunked


class TrainingPlan(BaseModel):
    """How much there is to extract."""

    listing: str  # path
    images: int
    chunks: int


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: TrainSettings) -> TrainingPlan:
    """Lists the labelled set and deals its folds, so that a set that cannot be used fails before any backbone pass."""
    require_new(settings.out, settings.storage_block)
    images = settings.images()
    folds = deal_folds(images, settings.folds, settings.seed)
    logger = get_run_logger()
    for number in range(settings.folds):
        names = [
            f"{'generated' if made else 'real'}/{group}" for (made, group), fold in sorted(folds.items()) if fold == number
        ]
        logger.info("fold %d: %s", number + 1, ", ".join(names))
    return TrainingPlan(listing=write_listing(settings.cache, images), images=len(images), chunks=len(chunked(images)))


@task(cache_policy=NO_CACHE, task_run_name="tokens {chunk}", retries=1, retry_delay_seconds=5)
def extract(settings: TrainSettings, listing: str, chunk: int) -> int:
    """Fills the cache for one chunk of images; the number of conditions that were not there yet."""
    return settings.token_cache().fill(chunked(read_listing(listing))[chunk], settings.conditions(), settings.storage_block)


@task(cache_policy=NO_CACHE, task_run_name="train {settings.out}")
def fit(settings: TrainSettings, listing: str) -> Trained:
    """Cross-validates, fits and publishes."""
    return train(settings, read_listing(listing), get_run_logger().info)


def follow(futures: Sequence[PrefectFuture[Any]], key: str, source: str) -> None:
    """Waits for the chunks of a labelled set, with a progress bar on the run's page; raises what a chunk raised."""
    progress = cast(uuid.UUID, create_progress_artifact(progress=0.0, key=key, description=source))
    for number, future in enumerate(as_completed(list(futures)), start=1):
        future.result()
        update_progress_artifact(artifact_id=progress, progress=100.0 * number / len(futures))
        get_run_logger().info("tokens: %d of %d chunks", number, len(futures))
