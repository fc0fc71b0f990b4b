"""Known errors of workers, told to the process that started them: a runner may hand on their text only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from fibflow.io.aws import AwsError
from fibflow.io.files import InputError
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.calendar import CalendarError

_KNOWN: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (AwsError, InputError, LakeError, CalendarError)
}
_FILE = "failure.json"


@contextmanager
def told(staging: Storage) -> Iterator[None]:
    """Leave a known error that passes in ``staging``, and let it pass."""
    try:
        yield
    except tuple(_KNOWN.values()) as error:
        name = next(name for name, kind in _KNOWN.items() if isinstance(error, kind))
        staging.write(_FILE, json.dumps({"kind": name, "message": str(error)}).encode())
        raise


def failure(staging: Storage) -> Exception | None:
    """Return the error that a worker left, if one did."""
    content = staging.read(_FILE)
    if content is None:
        return None
    found = json.loads(content)
    return _KNOWN[found["kind"]](found["message"])
