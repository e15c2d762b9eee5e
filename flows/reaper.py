"""The flow `reaper` marks runs whose process died as crashed, so that nothing waits for them."""

from prefect import flow, get_run_logger

from tasks.runs import dead_runs as steps


@flow(name="reaper")
def reaper(warehouse: str = "warehouse.duckdb") -> list[str]:
    """Marks dead runs as crashed in the warehouse and in Prefect, which frees their concurrency slots, and returns their ids.

    What a dead run held is free for others after its expiry with or without this flow.

    Args:
        warehouse: path of the DuckDB file.
    """
    runs = steps.reap_runs(warehouse)
    for run in runs:
        steps.mark_crashed(run)
    steps.forget_runs(warehouse, runs)
    get_run_logger().info("%d dead runs", len(runs))
    return [run.run_id for run in runs]
