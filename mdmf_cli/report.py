"""The command `mdmf report` writes the report folder again."""

from typing import Annotated

import typer

from mdmf_cli.console import Block, Device, WarehouseOption, WeightsOption, console, plain_errors
from mdmf_core.errors import MdmfError


def report(
    warehouse: WarehouseOption = "warehouse.duckdb",
    out: Annotated[str | None, typer.Option(help="Folder, local or s3://; WAREHOUSE.report by default.")] = None,
    scorer: Annotated[str | None, typer.Option(help="For the evidence maps, if it no longer lies where the runs say.")] = None,
    bank: Annotated[str | None, typer.Option(help="Its directory, if it no longer lies where the registry says.")] = None,
    weights: WeightsOption = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Write the report again: one folder that opens from disk or S3, without a server."""
    from tasks.report.write import load_evidence_setup, write_report
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        where = Warehouse.at(warehouse)
        setup = load_evidence_setup(where, scorer, bank, device, storage_block)
        page = write_report(where, warehouse, storage_block, setup, out)
        if page is None:
            raise MdmfError(f"{warehouse} holds no shard that was scored or deferred yet")
    console.print(page, highlight=False, soft_wrap=True)
