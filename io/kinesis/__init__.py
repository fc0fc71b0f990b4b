"""Kinesis: the source of the stream, and the producer that fills it."""
