"""What can go wrong with the vendor: one line each, which says what to do and never holds the key."""

from __future__ import annotations


class VendorError(Exception):
    """The vendor did not give what was asked for."""


class WrongKey(VendorError):
    """There is no key, or the vendor does not know it."""


class NoAccess(VendorError):
    """The key's plan does not include what was asked for."""


class NotFound(VendorError):
    """The vendor knows no such thing."""


class VendorAway(VendorError):
    """The vendor cannot be reached, or does not answer as it should, however often it is asked."""


class Unreachable(VendorAway):
    """No answer ever came from there."""


class Passing(Exception):
    """One attempt failed, and another may not.

    Attributes:
        reached: the vendor answered, if wrongly.
        wait: seconds that it asked to wait; None where it said nothing.
    """

    def __init__(self, why: str, *, reached: bool, wait: float | None = None) -> None:
        super().__init__(why)
        self.reached = reached
        self.wait = wait
