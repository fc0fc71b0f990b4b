"""The predecessor's silver files, made the way it made them: windows by row number, in SQL."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SQL = """
with numbered as (
    select *, (row_number() over (partition by symbol order by session) - 1) // {n} as number from rows
)
select symbol, first(open order by session) as open, max(high) as high, min(low) as low,
       last(close order by session) as close, sum(volume) as volume, min(session) as ts
from numbered group by symbol, number {having} order by symbol, ts
"""


def silver_bars(rows: pa.Table, n: int, complete_only: bool = False) -> pa.Table:
    """Bars of ``n`` rows of ``schemas.DAILY_ROWS``; ``ts`` is a date."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        having = f"having count(*) = {n}" if complete_only else ""
        made: pa.Table = connection.sql(_SQL.format(n=n, having=having)).to_arrow_table()
        return made


def write_silver(folder: Path, bars: pa.Table, timeframe: str) -> None:
    """Write a file a month: ``silver_3d/year=2020/month=01/data_3d_202001.parquet``."""
    time = next(name for name in ("ts", "timestamp", "date") if name in bars.column_names)
    months = np.asarray(bars[time].cast(pa.timestamp("us"))).astype("datetime64[M]")
    for month in np.unique(months):
        year, number = str(month).split("-")
        path = folder / f"silver_{timeframe}" / f"year={year}" / f"month={number}"
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            bars.filter(pa.array(months == month)), path / f"data_{timeframe}_{year}{number}.parquet"
        )
