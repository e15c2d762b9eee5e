"""The flow `curate` takes a collection of images and lands one row per image in the warehouse."""

from prefect import flow
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from mdmf_core.choices import EngineName
from tasks.runs import names, steps
from tasks.runs.execution import CurateResult, carry_out
from tasks.runs.settings import CurateSettings, Share
from tasks.storage.filesystems import refuse_credentials


@flow(name="curate", flow_run_name=names.run_name)
def curate(
    source: str,
    warehouse: str = "warehouse.duckdb",
    scorer: str = "default",
    bank: str = "default",
    calibration: str | None = None,
    keep_signatures: Share = 0.0,
    shards_per_task: PositiveInt = 4,
    images_per_slice: PositiveInt = 1000,
    max_shards: PositiveInt | None = None,
    batch_images: NonNegativeInt = 0,
    decode_threads: NonNegativeInt = 0,
    device: str = "auto",
    compile: bool = False,
    storage_block: str | None = None,
    promote: bool = False,
    engine: EngineName = "threads",
    engine_address: str | None = None,
    num_cpus: NonNegativeInt = 0,
    num_gpus: NonNegativeFloat = 0.0,
) -> CurateResult:
    """Scores every image of a collection against a bank of real images and lands one row per image in DuckDB.

    Args:
        source: tar or parquet shards by path, brace range ({00000..00099}.tar) or glob, or a folder; local or s3://.
        warehouse: path of the DuckDB file; made if it is not there.
        scorer: `default`, a scorer directory, or `timm:MODEL?weights=FILE` (see docs).
        bank: `default`, a bank directory that was built with the scorer, or `name@3`, `name`, `@alias` in the registry.
        calibration: number in the registry or file; None = the bank's newest, or the one promoted with the alias.
        keep_signatures: share of shards whose signatures are kept beside the warehouse, so that `rescore` needs no backbone.
        shards_per_task: shards that are scored by one task and committed together.
        images_per_slice: images that make one shard when the source is a folder of images.
        max_shards: stop after this many shards that are not complete yet; the next run goes on.
        batch_images: images in one pass through the backbone; 0 = as many as pay off and fit. Fewer when memory runs out.
        decode_threads: 0 = one per core that the backbone leaves free.
        device: auto, cpu, cuda or cuda:N.
        compile: have torch compile the backbone, with CUDA graphs on CUDA; pays off from some thousand images on.
        storage_block: name of a Prefect Secret block with fsspec options, in place of the AWS variables.
        promote: make this scorer and bank the ones that the views show.
        engine: where groups are scored: threads (this process), ray or dask (see docs/engines.md).
        engine_address: a Ray or Dask cluster that runs; None = one on this machine for the length of the run.
        num_cpus: cores of one group; 0 = all (threads) or one (ray, dask).
        num_gpus: GPUs of one group, for ray and dask.

    Raises:
        MdmfError: a source, scorer, bank or warehouse that cannot be used, in one sentence; or no shard could be scored.
    """
    asked = CurateSettings.model_validate(locals())
    refuse_credentials(source)
    settings = asked.resolved()
    return carry_out(settings, lambda run_id: steps.plan(settings, run_id))
