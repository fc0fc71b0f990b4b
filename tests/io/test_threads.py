import threading

import apache_beam as beam
import pytest
from apache_beam import pvalue
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from fibflow.io.threads import InThreads
from fibflow.runners.profiles import profile


class Split(beam.DoFn):
    """Yields the digits of a number; a negative one is refused."""

    def process(self, element):
        if element < 0:
            yield pvalue.TaggedOutput("refused", element)
            return
        yield from map(int, str(element))


class Count(beam.DoFn):
    """Hands on what comes; ends its bundle with how many that were."""

    def start_bundle(self):
        self._seen = []

    def process(self, element):
        self._seen.append(element)
        yield element

    def finish_bundle(self):
        yield beam.utils.windowed_value.WindowedValue(
            ("seen", len(self._seen)), 0, (beam.transforms.window.GlobalWindow(),)
        )


class Meet(beam.DoFn):
    """Goes on only when another thread is here too."""

    def __init__(self, parties):
        self._parties = parties

    def setup(self):
        self._barrier = threading.Barrier(self._parties)

    def process(self, element):
        self._barrier.wait(timeout=30)
        yield element


class Fail(beam.DoFn):
    def process(self, element):
        raise ValueError(f"cannot take {element}")


def run(steps, threads, elements, check):
    with beam.Pipeline(options=PipelineOptions(list(profile("direct").options))) as pipeline:
        made = (
            pipeline
            | beam.Create(elements)
            | beam.ParDo(InThreads(steps, threads)).with_outputs("refused", main="made")
        )
        check(made)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("elements", [[], [7], [12, -3, 345, 6, -9, 78]])
def test_the_chain_gives_what_its_steps_give(threads, elements):
    digits = [int(digit) for element in elements if element >= 0 for digit in str(element)]

    def check(made):
        assert_that(made.refused, equal_to([e for e in elements if e < 0]), label="refused")
        assert_that(made.made, equal_to([*digits, ("seen", len(digits))]), label="made")

    run([Split(), Count()], threads, elements, check)


def test_elements_are_worked_on_at_once():
    def check(made):
        assert_that(made.refused, equal_to([]), label="refused")
        assert_that(made.made, equal_to([1, 2, 3, 4]), label="made")

    run([Meet(2)], 2, [1, 2, 3, 4], check)


def test_an_error_in_a_thread_fails_the_run():
    with pytest.raises(Exception, match="cannot take"):
        run([Fail()], 2, [1, 2, 3], lambda made: None)
