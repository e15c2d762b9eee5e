"""The steps of an evaluation as Prefect tasks."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from mdmf_core.training.labelled import require_classes
from tasks.storage.publishing import require_new
from tasks.training.evaluation import Evaluated, EvaluateSettings, evaluate
from tasks.training.labelled_sets import read_listing, write_listing
from tasks.training.token_cache import chunked


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: EvaluateSettings) -> tuple[str, int]:
    """Lists the labelled set and loads the scorer with its bank; the listing's path and the number of chunks."""
    require_new(settings.out, settings.storage_block)
    settings.setup()
    images = settings.images()
    require_classes([image.generated for image in images])
    return write_listing(settings.cache, images), len(chunked(images))


@task(cache_policy=NO_CACHE, task_run_name="tokens {chunk}", retries=1, retry_delay_seconds=5)
def extract(settings: EvaluateSettings, listing: str, chunk: int) -> int:
    """Fills the cache for one chunk of images; the number of conditions that were not there yet."""
    return settings.token_cache().fill(chunked(read_listing(listing))[chunk], settings.conditions(), settings.storage_block)


@task(cache_policy=NO_CACHE, task_run_name="measure {settings.out}")
def measure(settings: EvaluateSettings, listing: str) -> Evaluated:
    """Scores, checks the controls and writes the files."""
    return evaluate(settings, read_listing(listing))
