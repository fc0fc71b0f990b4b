"""``python -m serving.keys``: makes API keys, lists them, revokes them, puts others in their place."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import orjson

from fibflow.serving import cli
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.store import BURST, RATE, KeyRecord, KeysError, KeyStore, NewKey, issue, scopes_text

_SPANS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _utc_now() -> datetime:
    return datetime.now(UTC)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="python -m serving.keys",
        description="API keys of the server. A key is shown once, when it is made, on standard output.",
        epilog=f"{cli.PEPPER} is hashed with each key: set it for the server and for this command alike.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key and show it once")
    create.add_argument("--owner", required=True, help="whose it is")
    create.add_argument(
        "--scopes",
        default=",".join(scope for scope in Scope if scope is not Scope.ALERTS),
        help=f"what it is for, with commas, of {','.join(Scope)} (default: %(default)s)",
    )
    create.add_argument("--rate", type=float, default=RATE, help="requests a second (default: %(default)g)")
    create.add_argument("--burst", type=int, default=BURST, help="requests at once (default: %(default)s)")
    create.add_argument("--expires", metavar="WHEN", help="YYYY-MM-DD, an instant, or 90d, 12h from now")
    listing = commands.add_parser("list", help="show what there is, without the keys themselves")
    listing.add_argument("--json", action="store_true", help="an object a line")
    revoke = commands.add_parser("revoke", help="let a key be used no more; servers know within 5 s")
    rotate = commands.add_parser("rotate", help="make a key like another, which is revoked")
    rotate.add_argument(
        "--overlap", metavar="SPAN", default="0m", help="let the old one live on so long: 12h, 7d"
    )
    for one in (revoke, rotate):
        one.add_argument("id", help="of the key: the part after fib_")
    for one in (create, listing, revoke, rotate):
        cli.add_key_arguments(one)
        one.add_argument("--lake", metavar="FOLDER", help="the keys are beside this lake")
    return made


def run(
    argv: Sequence[str] | None = None,
    clock: Callable[[], datetime] = _utc_now,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    named = args.keys or args.lake
    postgres = cli.given(args.postgres, {} if named else os.environ, "DATABASE_URL")
    store = cli.store_of(postgres, args.keys, args.lake)
    pepper = os.environ.get(cli.PEPPER, "")
    try:
        if args.command == "create":
            expires = None if args.expires is None else instant_of(args.expires, clock())
            key = issue(
                args.owner, scopes_of(args.scopes), clock(), randbytes, args.rate, args.burst, expires, pepper
            )
            store.add(key.record)
            _show(key)
        elif args.command == "list":
            _list(store.all(), clock(), args.json)
        elif args.command == "revoke":
            _revoke(store, args.id, clock())
        else:
            _rotate(store, args.id, span_of(args.overlap), clock(), randbytes, pepper)
    finally:
        store.close()
    return cli.OK


def scopes_of(text: str) -> list[Scope]:
    """Read scopes with commas. Raises ``KeysError``."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(Scope)):
        raise KeysError(f"there is no scope {unknown[0]!r}: take of {', '.join(Scope)}")
    return [Scope(name) for name in names]


def span_of(text: str) -> timedelta:
    """Read a span such as ``12h``. Raises ``KeysError``."""
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if found is None:
        raise KeysError(f"{text!r} is no span: write 30m, 12h, 90d or 4w")
    return timedelta(**{_SPANS[found[2]]: int(found[1])})


def instant_of(text: str, now: datetime) -> datetime:
    """Read when a key expires: an instant after now, or a span from now on. Raises ``KeysError``."""
    if re.fullmatch(r"\d+[mhdw]", text):
        return now + span_of(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise KeysError(f"{text!r} is no time: write YYYY-MM-DD, an instant, or 90d") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found <= now:
        raise KeysError(f"{text} is past: a key that expires then is of no use")
    return found


def _show(key: NewKey) -> None:
    record = key.record
    until = "" if record.expires is None else f", until {_time(record.expires)}"
    sys.stderr.write(
        f"key {record.id} of {record.owner} for {scopes_text(record.scopes)}{until}; it is shown this once:\n"
    )
    sys.stderr.flush()
    sys.stdout.write(key.text + "\n")


def _revoke(store: KeyStore, key_id: str, at: datetime) -> None:
    if not store.revoke(key_id, at):
        raise KeysError(f"there is no key {key_id} that is not revoked yet: `list` shows what there is")
    sys.stderr.write(f"key {key_id} is revoked\n")


def _rotate(
    store: KeyStore,
    key_id: str,
    overlap: timedelta,
    now: datetime,
    randbytes: Callable[[int], bytes],
    pepper: str,
) -> None:
    old = next((record for record in store.all() if record.id == key_id), None)
    if old is None or old.state(now) != "active":
        raise KeysError(f"there is no active key {key_id}: `list` shows what there is")
    key = issue(old.owner, old.scopes, now, randbytes, old.rate, old.burst, old.expires, pepper)
    # The new one first: whoever is interrupted between the two has one key too many, not one too few.
    store.add(key.record)
    _show(key)
    store.revoke(key_id, now + overlap)
    sys.stderr.write(f"key {key_id} is revoked as of {_time(now + overlap)}\n")


def _list(records: Sequence[KeyRecord], now: datetime, as_json: bool) -> None:
    if as_json:
        for record in records:
            told = {
                "id": record.id,
                "owner": record.owner,
                "scopes": sorted(record.scopes),
                "rate": record.rate,
                "burst": record.burst,
                "state": record.state(now),
                "created": record.created,
                "expires": record.expires,
                "last_used": record.last_used,
            }
            sys.stdout.write(orjson.dumps(told).decode() + "\n")
        return
    head = ("id", "state", "owner", "scopes", "a second", "burst", "created", "expires", "last used")
    rows = [
        (
            record.id,
            record.state(now),
            record.owner,
            scopes_text(record.scopes),
            f"{record.rate:g}",
            str(record.burst),
            *(_time(at) for at in (record.created, record.expires, record.last_used)),
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        line = "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _time(at: datetime | None) -> str:
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


if __name__ == "__main__":
    cli.run_main(run, "python -m serving.keys")
