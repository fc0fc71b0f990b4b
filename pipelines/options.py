"""Beam's options of a command line: a runner's profile, then the user's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from fibflow.pipelines.cli import UsageError
from fibflow.runners.profiles import profile


def beam_options(runner: str, flags: Sequence[str]) -> PipelineOptions:
    """Return the options of a bounded pipeline on ``runner``; see ``checked_options``."""
    return checked_options(profile(runner).options, flags)


def checked_options(given: Sequence[str], flags: Sequence[str]) -> PipelineOptions:
    """Return the options of a pipeline.

    Args:
        given: a runner's, by its profile.
        flags: what our own parser did not know.

    Raises:
        UsageError: Beam does not know a flag either; it would pass over a misspelt one.
    """
    known = _BeamArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in {str(kind): kind for kind in PipelineOptions.__subclasses__()}.values():
        options._add_argparse_args(known)
    try:
        _, unknown = known.parse_known_args(list(flags))
    except argparse.ArgumentError as error:
        raise UsageError(f"Beam: {error}") from error
    if unknown:
        raise UsageError(f"unknown option {unknown[0]} (see --help)")
    return PipelineOptions([*given, *flags])
