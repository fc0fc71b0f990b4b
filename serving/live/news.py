"""The thread of a process that follows the news in the live store. It makes JSON of it once, for all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import orjson

from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.io.news.push import Told, position, read
from fibflow.serving.live.follower import Interest, Part, Room
from fibflow.serving.live.fragments import frames_of
from fibflow.serving.live.store import Live
from fibflow.serving.live.topics import NEWS

#: The room of all who follow news.
ROOM: Room = (NEWS, "")

# While Redis says nothing, so often the thread looks whether it is to end.
_BLOCK_MS = 200
_READ_S = 5.0
_RETRY_S = 0.5
_ARTICLES = 100

_log = logging.getLogger(__name__)


class NewsFollower:
    """Follows news in a thread of its own, from ``start`` to ``stop``; after an outage from where it was.

    Args:
        live: the store.
        interests: what clients follow now, by room.
        deliver: takes parts, in order; blocks while the loop has enough of them.
    """

    def __init__(
        self,
        live: Live,
        interests: Callable[[], dict[Room, Interest]],
        deliver: Callable[[Sequence[Part]], None],
    ) -> None:
        self._live = live
        self._interests = interests
        self._deliver = deliver
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-news", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it: a fraction of a second where Redis answers."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        store: LiveStore | None = None
        here: str | None = None
        while not self._stopping.is_set():
            try:
                if store is None:
                    store = self._live.store(_READ_S)
                if here is None:
                    here = position(store)
                told = read(store, here, _BLOCK_MS, _ARTICLES)
                if told:
                    # One that cannot be told keeps no other back.
                    here = told[-1].position
                    self._hand_on(told)
            except LiveStoreError:
                # What is wrong is told by who follows the bars.
                _closed(store)
                store = None
                self._stopping.wait(_RETRY_S)
            except Exception:
                _log.exception("news of the live store cannot be told")
                _closed(store)
                store = None
                self._stopping.wait(_RETRY_S)
        _closed(store)

    def _hand_on(self, told: Sequence[Told]) -> None:
        interest = self._interests().get(ROOM)
        if interest is not None:
            self._deliver([part_of(told, interest)])


def part_of(told: Sequence[Told], interest: Interest) -> Part:
    """Return articles as objects: one for each ticker that is followed, and one each for who follows all."""
    followed = set(interest.symbols.to_pylist())
    pairs = [(one, ticker) for one in told for ticker in one.tickers if ticker in followed]
    return Part(
        ROOM,
        [ticker for _, ticker in pairs],
        [object_of(one, ticker) for one, ticker in pairs],
        frames_of([object_of(one) for one in told]) if interest.wild else [],
    )


def object_of(one: Told, ticker: str | None = None) -> str:
    """Return an article as it is told: the vendor's object, with ``ev``, ``sym`` and ``rev`` before it."""
    symbol = "" if ticker is None else f'"sym":{orjson.dumps(ticker).decode()},'
    return f'{{"ev":"{NEWS}",{symbol}"rev":{one.revision},{one.article.decode()[1:]}'


def _closed(store: LiveStore | None) -> None:
    if store is not None:
        store.close()
