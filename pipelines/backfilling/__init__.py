"""The parts of a backfill: sessions and symbols, minutes, and what was done."""
