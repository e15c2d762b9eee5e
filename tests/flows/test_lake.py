"""The main job on a lake, and the deployment that keeps it in shape."""

import pandas as pd
from fabricate import CONTENT, write_shard
from lakes import needs_lakes, place
from typer.testing import CliRunner

from mdmf import to_pandas as query
from mdmf_cli.main import app
from tasks.maintenance.verify import verify
from tasks.warehouse.warehouse import Warehouse

pytestmark = needs_lakes


def test_curate_on_a_lake_gives_the_rows_of_the_embedded_warehouse(curate, tmp_path):
    from flows.compact import compact

    for number in range(2):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 3), {"z.html": b"<html>"})
    lake, embedded = place(tmp_path, "sqlite"), place(tmp_path, "embedded")
    first = curate(tmp_path / "00000.tar", warehouse=lake)
    second = curate(f"{tmp_path}/{{00000..00001}}.tar", warehouse=lake)
    curate(f"{tmp_path}/{{00000..00001}}.tar", warehouse=embedded)
    assert (first.complete, second.complete, second.already_complete) == (1, 1, 1)
    pd.testing.assert_frame_equal(query(lake, CONTENT), query(embedded, CONTENT))
    assert second.report.startswith(str(tmp_path / "lake.report"))
    assert verify(Warehouse.at(lake)) == []
    asked = CliRunner().invoke(
        app, ["sql", "SELECT count(*) AS n FROM scored", "--format", "csv", "--as-of", first.run_id, "--warehouse", lake]
    )
    assert asked.output == "n\n3\n"
    compact(lake, keep_days=0.0)
    pd.testing.assert_frame_equal(query(lake, CONTENT), query(embedded, CONTENT))
