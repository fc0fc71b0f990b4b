"""Requests that may be sent twice: what the first one was answered is kept for a day."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from psycopg2.extras import Json

from fibflow.io.alerts.model import Answer, Conflict

#: For how long an answer is kept.
KEPT = timedelta(hours=24)
# Waits for another transaction with the same key to end, and takes over a key that has been kept long enough.
_BEGIN = """
INSERT INTO alert_requests AS held (owner, key, digest, created)
VALUES (%(owner)s, %(key)s, %(digest)s, %(now)s)
ON CONFLICT (owner, key) DO UPDATE SET digest = excluded.digest, created = excluded.created, answer = NULL,
    status = NULL
WHERE held.created <= %(end)s
RETURNING 1
"""
_HELD = "SELECT digest, status, answer FROM alert_requests WHERE owner = %(owner)s AND key = %(key)s"
_KEEP = "UPDATE alert_requests SET status = %s, answer = %s WHERE owner = %s AND key = %s"
# A few with each request, whoever asked them; what another one removes at the moment is left to it.
_FORGET = """
DELETE FROM alert_requests WHERE (owner, key) IN (
    SELECT owner, key FROM alert_requests WHERE created <= %(end)s ORDER BY created LIMIT 20
    FOR UPDATE SKIP LOCKED
)
"""


def begin(cursor: Any, owner: str, key: str, digest: bytes, now: datetime) -> Answer | None:
    """Return what a request was answered before; None: it is new, and is to be answered in this transaction.

    Raises:
        Conflict: another request had this key.
    """
    told = {"owner": owner, "key": key, "digest": digest, "now": now, "end": now - KEPT}
    cursor.execute(_BEGIN, told)
    if cursor.fetchone() is not None:
        cursor.execute(_FORGET, told)
        return None
    cursor.execute(_HELD, told)
    before, status, body = cursor.fetchone()
    if bytes(before) != digest:
        raise Conflict("another request had this Idempotency-Key: give each request its own")
    return Answer(status, body, repeated=True)


def keep(cursor: Any, owner: str, key: str, answer: Answer) -> None:
    """Keep what a request is answered."""
    cursor.execute(_KEEP, (answer.status, Json(answer.body), owner, key))
