"""How far each job has come: ``data_ingestion_watermark``, and each step of it in its history."""

from alembic import op

from fibflow.io.postgresql.migrations.adopt import make_or_adopt

revision = "r0003"
down_revision = "r0002"
HOLDS = ("data_ingestion_watermark", "data_ingestion_watermark_history")

_CREATE = """
CREATE TABLE data_ingestion_watermark (
    job text NOT NULL,
    key text NOT NULL,
    watermark timestamptz NOT NULL,
    position text,
    run text,
    updated timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, key)
)
"""
_COLUMNS = {
    **dict.fromkeys(("job", "key", "position", "run"), "text"),
    **dict.fromkeys(("watermark", "updated"), "timestamp with time zone"),
}
_HISTORY = """
CREATE TABLE data_ingestion_watermark_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    key text NOT NULL,
    before timestamptz,
    after timestamptz,
    position text,
    run text,
    changed timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
_FUNCTION = """
CREATE FUNCTION fibflow_keep_watermarks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_mark timestamptz := CASE WHEN TG_OP <> 'INSERT' THEN OLD.watermark END;
    new_mark timestamptz := CASE WHEN TG_OP <> 'DELETE' THEN NEW.watermark END;
    told CONSTANT jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
    EXECUTE format(
        'INSERT INTO %I.data_ingestion_watermark_history (job, key, before, after, position, run) '
        'VALUES ($1, $2, $3, $4, $5, $6)', TG_TABLE_SCHEMA
    ) USING told ->> 'job', told ->> 'key', old_mark, new_mark, told ->> 'position', told ->> 'run';
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER data_ingestion_watermark_history AFTER INSERT OR UPDATE OR DELETE ON data_ingestion_watermark
FOR EACH ROW EXECUTE FUNCTION fibflow_keep_watermarks()
"""


def upgrade() -> None:
    """Make the tables and the trigger."""
    make_or_adopt("data_ingestion_watermark", _CREATE, _COLUMNS, ("job", "key"))
    op.execute(_HISTORY)
    op.execute(
        "CREATE INDEX data_ingestion_watermark_history_key "
        "ON data_ingestion_watermark_history (job, key, changed)"
    )
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE data_ingestion_watermark_history")
    op.execute("DROP TABLE data_ingestion_watermark")
    op.execute("DROP FUNCTION fibflow_keep_watermarks()")
