"""Tests of what is missing, quiet or broken."""
