"""The one Beam coder of Arrow data: a RecordBatch or Table as an IPC stream.

Without it Beam pickles a batch, and a pickled slice carries the buffers of the whole that it was cut from.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam import coders


def encode_table(table: pa.Table) -> bytes:
    """Return ``table`` as one IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode_table(encoded: bytes) -> pa.Table:
    """Return the table of an IPC stream, without copying its columns."""
    return pa.ipc.open_stream(pa.BufferReader(encoded)).read_all()


class ArrowBatchCoder(coders.Coder):
    """Encodes a ``pyarrow.RecordBatch``."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        """Return the batch as an IPC stream."""
        return encode_table(pa.Table.from_batches([value]))

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """Return the batch; an empty stream gives an empty batch of its schema."""
        table = decode_table(encoded).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Return the bytes of its columns: Beam samples sizes, and would encode to learn them."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Return False: equal batches may differ in buffers."""
        return False

    def to_type_hint(self) -> type:
        """Return the type that the coder is registered for."""
        return pa.RecordBatch


class ArrowTableCoder(coders.Coder):
    """Encodes a ``pyarrow.Table``."""

    def encode(self, value: pa.Table) -> bytes:
        """Return the table as an IPC stream."""
        return encode_table(value)

    def decode(self, encoded: bytes) -> pa.Table:
        """Return the table."""
        return decode_table(encoded)

    def estimate_size(self, value: pa.Table) -> int:
        """Return the bytes of its columns: Beam samples sizes, and would encode to learn them."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Return False: equal tables may be chunked differently."""
        return False

    def to_type_hint(self) -> type:
        """Return the type that the coder is registered for."""
        return pa.Table


def tables_of(outputs: Any, *tags: str) -> Any:
    """Say that the tagged outputs of a ParDo hold tables, and return the outputs.

    A decorator types the main output only. Beam pickles elements of an unknown type to learn their size.
    """
    for tag in tags:
        outputs[tag].element_type = pa.Table
    return outputs


def register() -> None:
    """Make Beam use these coders wherever a type hint names their type."""
    coders.registry.register_coder(pa.RecordBatch, ArrowBatchCoder)
    coders.registry.register_coder(pa.Table, ArrowTableCoder)


register()
