"""Splits, dividends and renames, each with its history: what the lake's tables of reference data hold."""

from alembic import op

from fibflow.io.postgresql.migrations.adopt import Added, make_or_adopt

revision = "r0005"
down_revision = "r0004"

_OURS = "known timestamptz NOT NULL DEFAULT now(), revision integer NOT NULL DEFAULT 0"
_TABLES = {
    "symbol_splits": (
        ("symbol", "execution_date"),
        {
            "symbol": "text",
            "execution_date": "date",
            "split_from": "double precision",
            "split_to": "double precision",
            "id": "text",
        },
    ),
    "symbol_dividends": (
        ("symbol", "ex_dividend_date", "id"),
        {
            "symbol": "text",
            "ex_dividend_date": "date",
            "id": "text",
            "cash_amount": "double precision",
            "currency": "text",
            "dividend_type": "text",
            "frequency": "integer",
            "declaration_date": "date",
            "record_date": "date",
            "pay_date": "date",
        },
    ),
    "symbol_renames": (
        ("symbol", "date"),
        {"symbol": "text", "date": "date", "old_symbol": "text", "composite_figi": "text", "cik": "text"},
    ),
}
HOLDS = tuple(name for table in _TABLES for name in (table, f"{table}_history"))


def upgrade() -> None:
    """Make the tables and their triggers."""
    for table, (key, columns) in _TABLES.items():
        defined = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        create = f"CREATE TABLE {table} ({defined}, {_OURS}, PRIMARY KEY ({', '.join(key)}))"
        added = {
            "known": Added("timestamptz NOT NULL DEFAULT 'epoch'", "now()"),
            "revision": Added("integer NOT NULL DEFAULT 0"),
        }
        make_or_adopt(table, create, columns, key, added)
        alike = "LIKE symbol_metadata_history INCLUDING DEFAULTS INCLUDING IDENTITY"
        op.execute(f"CREATE TABLE {table}_history ({alike})")
        op.execute(f"ALTER TABLE {table}_history ADD PRIMARY KEY (id)")
        op.execute(f"CREATE INDEX {table}_history_symbol ON {table}_history (symbol, changed)")
        op.execute(
            f"CREATE TRIGGER {table}_history AFTER INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION fibflow_keep_history()"
        )


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE {table}_history")
        op.execute(f"DROP TABLE {table}")
