"""Other machines' clocks against this one's."""

from __future__ import annotations

from fibflow.io.checkup.findings import Finding, failed, ok, warning

#: From so many seconds on a difference is worth a look, and wrong.
WARNS_S, FAILS_S = 1.0, 5.0
_ADVICE = "let NTP set the clocks (chrony, systemd-timesyncd): bars close and alerts begin by the clock"


def compared(whose: str, theirs: float, before: float, after: float, resolution_s: float = 0.0) -> Finding:
    """Return how far a clock is from ours, at least.

    Args:
        whose: for people.
        theirs: what it said, seconds since 1970.
        before: ours before it was asked.
        after: ours after it answered.
        resolution_s: it may be by so much later than it said.
    """
    name = f"clock: {whose}"
    ahead, behind = theirs - after, before - (theirs + resolution_s)
    skew = max(ahead, behind)
    if skew <= WARNS_S:
        return ok(name, f"within {WARNS_S:g} s of ours")
    reason = f"it is {skew:.1f} s {'ahead of' if ahead > behind else 'behind'} ours"
    return (failed if skew > FAILS_S else warning)(name, reason, _ADVICE)
