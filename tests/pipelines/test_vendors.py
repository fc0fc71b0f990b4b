from __future__ import annotations

import argparse

import pytest

from fibflow.io.vendor.errors import WrongKey
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.vendors import add_vendor_arguments, vendor_of

ENVIRON = {"MASSIVE_API_KEY": "key", "FIBFLOW_VENDOR_URL": "http://127.0.0.1:9"}


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_vendor_arguments(parser)
    return parser.parse_args(given)


def test_the_vendor_is_the_one_that_is_named():
    assert vendor_of(arguments(), ENVIRON).url == "http://127.0.0.1:9"
    named = vendor_of(arguments("--vendor-url", "https://there/"), ENVIRON)
    assert (named.url, repr(named)) == ("https://there", "Vendor('https://there')")


@pytest.mark.parametrize(
    "given",
    [
        ("--rate", "0"),
        ("--rate", "-1"),
        ("--rate", "nan"),
        ("--at-once", "0"),
        ("--at-once", "1000"),
        ("--vendor-url", "there"),
    ],
)
def test_numbers_and_addresses_that_cannot_be_are_refused(given):
    with pytest.raises(UsageError, match=given[0]):
        vendor_of(arguments(*given), ENVIRON)


def test_without_a_key_nobody_is_asked():
    with pytest.raises(WrongKey, match="--key-file"):
        vendor_of(arguments(), {})
