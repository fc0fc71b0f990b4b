"""The server's keys: ``api_keys`` and ``api_keys_version``, also where a server has made them already."""

from alembic import op
from sqlalchemy import text

from fibflow.io.postgresql.migrations.adopt import make_or_adopt

revision = "r0004"
down_revision = "r0003"
HOLDS = ("api_keys",)

# Under this lock the servers make the tables, where there are none.
_LOCK = 0x66696273
_CREATE = """
CREATE TABLE api_keys (
    id text PRIMARY KEY, digest bytea NOT NULL, owner text NOT NULL, scopes text NOT NULL,
    rate double precision NOT NULL, burst integer NOT NULL, created double precision NOT NULL,
    expires double precision, revoked double precision, last_used double precision)
"""
_COLUMNS = {
    **dict.fromkeys(("id", "owner", "scopes"), "text"),
    **dict.fromkeys(("rate", "created", "expires", "revoked", "last_used"), "double precision"),
    "digest": "bytea",
    "burst": "integer",
}


def upgrade() -> None:
    """Make the tables, or take them over with their keys."""
    op.get_bind().execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    make_or_adopt("api_keys", _CREATE, _COLUMNS, ("id",))
    op.execute("CREATE TABLE IF NOT EXISTS api_keys_version (version bigint NOT NULL)")
    op.execute("INSERT INTO api_keys_version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM api_keys_version)")


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE api_keys_version")
    op.execute("DROP TABLE api_keys")
