"""The steps of an evaluation as Prefect tasks."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.evaluation import Evaluated, EvaluateSettings, evaluate
from tasks.tokens import chunked


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: EvaluateSettings) -> int:
    """Lists the labelled set and loads the scorer with its bank; the number of chunks."""
    settings.kit()
    return len(chunked(settings.images()))


@task(cache_policy=NO_CACHE, task_run_name="tokens {chunk}", retries=1, retry_delay_seconds=5)
def extract(settings: EvaluateSettings, chunk: int) -> int:
    """Fills the cache for one chunk of images; the number of conditions that were not there yet."""
    return settings.token_cache().fill(chunked(settings.images())[chunk], settings.conditions(), settings.storage_block)


@task(cache_policy=NO_CACHE, task_run_name="measure {settings.out}")
def measure(settings: EvaluateSettings) -> Evaluated:
    """Scores, checks the controls and writes the files."""
    return evaluate(settings)
