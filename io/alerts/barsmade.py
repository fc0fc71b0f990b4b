"""Which bars the job makes that evaluates alerts, by the command line that it was submitted with last."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fibflow.io import submissions
from fibflow.io.storage import Storage
from fibflow.io.submissions import Submission
from fibflow.transforms.timeframe import Timeframe, TimeframeError, parse_timeframes

#: What ``pipelines.stream`` makes where it is not told.
BY_DEFAULT = "intraday,1d"


class _Unread(Exception):
    """That is no command line of ours."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Unread(message)


def bars_made(place: Storage) -> tuple[Timeframe, ...] | None:
    """Return the timeframes of the job that was submitted last with ``--alerts``, sorted.

    Args:
        place: the lake's.

    Returns:
        None where there was no such job, or what it was told cannot be read.

    Raises:
        LakeError: the place, or a submission, cannot be read.
    """
    found = [submissions.read(place, name) for name in submissions.names(place)]
    told = [(each.submitted, _told(each)) for each in found if each is not None]
    evaluating = [(at, names) for at, (alerts, names) in told if alerts]
    if not evaluating:
        return None
    try:
        return parse_timeframes(max(evaluating)[1])
    except TimeframeError:
        return None


def _told(submission: Submission) -> tuple[bool, str]:
    """Return whether a job evaluates alerts, and the timeframes that it makes."""
    parser = _Parser(add_help=False)
    parser.add_argument("--alerts")
    parser.add_argument("--timeframes", default=BY_DEFAULT)
    try:
        args, _ = parser.parse_known_args(submission.argv)
    except _Unread:
        return False, ""
    return bool(args.alerts), args.timeframes
