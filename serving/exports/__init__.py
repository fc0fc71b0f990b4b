"""Exports: bars of one symbol to all, streamed as they are read, in memory that does not grow with them."""
