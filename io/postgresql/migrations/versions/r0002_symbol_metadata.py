"""Symbols: ``symbol_metadata``, and each change of it, whoever made it, in ``symbol_metadata_history``."""

from alembic import op

from fibflow.io.postgresql.migrations.adopt import Added, make_or_adopt

revision = "r0002"
down_revision = "r0001"
HOLDS = ("symbol_metadata", "symbol_metadata_history")

_CREATE = """
CREATE TABLE symbol_metadata (
    symbol text PRIMARY KEY,
    name text,
    type text,
    exchange text,
    currency text,
    active boolean NOT NULL DEFAULT true,
    listed date,
    delisted date,
    cik text,
    composite_figi text,
    share_class_figi text,
    description text,
    homepage text,
    updated timestamptz,
    known timestamptz NOT NULL DEFAULT now(),
    revision integer NOT NULL DEFAULT 0
)
"""
_TEXTS = (
    *("symbol", "name", "type", "exchange", "currency"),
    *("cik", "composite_figi", "share_class_figi", "description", "homepage"),
)
_COLUMNS = {
    **dict.fromkeys(_TEXTS, "text"),
    "active": "boolean",
    "listed": "date",
    "delisted": "date",
    "updated": "timestamp with time zone",
    "known": "timestamp with time zone",
    "revision": "integer",
}
_ADDED = {
    **dict.fromkeys(_TEXTS[1:], Added("text")),
    "active": Added("boolean NOT NULL DEFAULT true"),
    "listed": Added("date"),
    "delisted": Added("date"),
    "updated": Added("timestamptz"),
    "known": Added("timestamptz NOT NULL DEFAULT 'epoch'", "now()"),
    "revision": Added("integer NOT NULL DEFAULT 0"),
}
_HISTORY = """
CREATE TABLE symbol_metadata_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol text NOT NULL,
    changed timestamptz NOT NULL DEFAULT clock_timestamp(),
    operation text NOT NULL,
    columns text[] NOT NULL,
    before jsonb,
    after jsonb,
    run text
)
"""
# The table's schema is named: who writes may have another search path.
_FUNCTION = """
CREATE FUNCTION fibflow_keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ours CONSTANT text[] := '{known,revision,updated}';
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    differing text[];
BEGIN
    SELECT coalesce(array_agg(key ORDER BY key), '{}') INTO differing
    FROM jsonb_object_keys(coalesce(new_row, old_row)) AS key
    WHERE key <> ALL (ours) AND (old_row -> key) IS DISTINCT FROM (new_row -> key);
    IF TG_OP <> 'UPDATE' OR differing <> '{}' THEN
        EXECUTE format(
            'INSERT INTO %I.%I (symbol, operation, columns, before, after, run) '
            'VALUES ($1, $2, $3, $4, $5, $6)', TG_TABLE_SCHEMA, TG_TABLE_NAME || '_history'
        ) USING coalesce(new_row, old_row) ->> 'symbol', lower(TG_OP), differing, old_row, new_row,
            nullif(current_setting('fibflow.run', true), '');
    END IF;
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER symbol_metadata_history AFTER INSERT OR UPDATE OR DELETE ON symbol_metadata
FOR EACH ROW EXECUTE FUNCTION fibflow_keep_history()
"""


def upgrade() -> None:
    """Make the tables and the trigger, or take ``symbol_metadata`` over."""
    make_or_adopt("symbol_metadata", _CREATE, _COLUMNS, ("symbol",), _ADDED)
    op.execute(_HISTORY)
    op.execute("CREATE INDEX symbol_metadata_history_symbol ON symbol_metadata_history (symbol, changed)")
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE symbol_metadata_history")
    op.execute("DROP TABLE symbol_metadata")
    op.execute("DROP FUNCTION fibflow_keep_history()")
