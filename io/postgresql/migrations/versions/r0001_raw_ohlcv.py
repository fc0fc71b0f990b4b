"""Bars: ``raw_ohlcv``, one row a (symbol, timestamp, interval), and ``fibflow_properties``.

TimescaleDB can make a hypertable of it: its only unique index holds the time, which is never null, and no
foreign key leads to it.
"""

from alembic import op

from fibflow.io.postgresql.migrations.adopt import Added, make_or_adopt

revision = "r0001"
down_revision = None
HOLDS = ("raw_ohlcv",)

_CREATE = """
CREATE TABLE raw_ohlcv (
    symbol text NOT NULL,
    "timestamp" timestamptz NOT NULL,
    "interval" text NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    vwap double precision,
    trade_count bigint,
    known timestamptz NOT NULL DEFAULT now(),
    revision integer NOT NULL DEFAULT 0,
    PRIMARY KEY (symbol, "timestamp", "interval")
)
"""
_COLUMNS = {
    "symbol": "text",
    "timestamp": "timestamp with time zone",
    "interval": "text",
    **dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), "double precision"),
    "trade_count": "bigint",
    "known": "timestamp with time zone",
    "revision": "integer",
}
# Rows of a table that is taken over give way to whatever comes.
_ADDED = {
    "vwap": Added("double precision"),
    "trade_count": Added("bigint"),
    "known": Added("timestamptz NOT NULL DEFAULT 'epoch'", "now()"),
    "revision": Added("integer NOT NULL DEFAULT 0"),
}


def upgrade() -> None:
    """Make the tables, or take ``raw_ohlcv`` over."""
    make_or_adopt("raw_ohlcv", _CREATE, _COLUMNS, ("symbol", "timestamp", "interval"), _ADDED)
    # A symbol's bars of one interval, where others lie between them; all symbols' of one time.
    op.execute(
        'CREATE INDEX IF NOT EXISTS raw_ohlcv_symbol_interval ON raw_ohlcv (symbol, "interval", "timestamp")'
    )
    op.execute('CREATE INDEX IF NOT EXISTS raw_ohlcv_interval_time ON raw_ohlcv ("interval", "timestamp")')
    op.execute("CREATE TABLE fibflow_properties (name text PRIMARY KEY, value text NOT NULL)")


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE fibflow_properties")
    op.execute("DROP TABLE raw_ohlcv")
