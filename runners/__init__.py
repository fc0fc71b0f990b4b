"""Profiles of the runners that a pipeline can run on."""
