"""Tests of the arithmetic of larger loads."""
