"""The feed while something breaks: part of a tape, played so slowly that it lasts."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.pipelines import playback
from fibflow.pipelines.tape import Messages

#: In so many seconds the feed plays two thirds of what is left, if nobody hurries it: it does not run dry.
_PACE_S = 150.0
#: Hurried, everything is due.
_FOREVER_S = 1e6


class Feed:
    """Plays a part of the tape in a thread, ever more slowly, until it is to finish.

    Args:
        client: of Kinesis.
        stream: its name.
        messages: what is played.
    """

    def __init__(self, client: Any, stream: str, messages: Messages) -> None:
        self._client, self._stream, self._messages = client, stream, messages
        self._hurried, self._given_up, self._begun = threading.Event(), False, False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._play, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Play nothing more."""
        self._given_up = True
        self._hurried.set()
        self._thread.join()

    @property
    def runs(self) -> bool:
        """Whether there is still something to play."""
        return self._thread.is_alive()

    def finish(self) -> None:
        """Play the rest at once, and wait for it."""
        self._hurried.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _play(self) -> None:
        random_, options = random.Random(1).random, PutOptions(messages=50)
        producer = PutTicks(self._client, self._stream, self._clock, time.sleep, random_, options)
        count = len(self._messages.sent)
        due = -_PACE_S * np.log1p(-np.arange(count) / count)
        try:
            playback.play(self._messages, playback.KinesisSink(producer), self._played, self._wait, due)
        except Exception as error:  # for whoever waits for the end
            self._error = error

    def _clock(self) -> float:
        if self._given_up:
            raise InterruptedError("the run has failed")
        return time.monotonic()

    def _played(self) -> float:
        # The first answer is the beginning, from which the others count: hurried or not.
        hurried = self._begun and self._hurried.is_set()
        self._begun = True
        return self._clock() + (_FOREVER_S if hurried else 0.0)

    def _wait(self, seconds: float) -> None:
        self._hurried.wait(seconds)
