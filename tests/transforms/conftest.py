"""Hypothesis without deadlines: machines are shared, and the first example of a test may load a calendar."""

from hypothesis import settings

settings.register_profile("fibflow", deadline=None)
settings.load_profile("fibflow")
