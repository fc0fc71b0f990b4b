"""The cells of a bucket of alerts on bars in memory, which can be copied."""

from __future__ import annotations

import copy

from fibflow.transforms.alerts.barcells import BAGS


class MemoryCells:
    """Bags give their parts in the order that is least expected."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.bags: dict[str, list[bytes]] = {name: [] for name in BAGS}
        self.writes = 0

    def read(self, name: str) -> bytes | None:
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self.writes += 1
        self.values[name] = value

    def parts(self, name: str) -> list[bytes]:
        return self.bags[name][::-1]

    def append(self, name: str, part: bytes) -> None:
        self.writes += 1
        self.bags[name].append(part)

    def clear(self, name: str) -> None:
        self.bags[name] = []

    def copy(self) -> MemoryCells:
        return copy.deepcopy(self)
