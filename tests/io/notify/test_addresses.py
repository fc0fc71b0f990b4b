"""No webhook leads inside, whichever way its address is written, and nothing is told of the inside."""

from __future__ import annotations

import socket

import pytest

from fibflow.io.notify.addresses import LONGEST_URL, Refused, check_url, look_up, parsed, resolved

OUTSIDE = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]


def outside(host, limit_s):
    return OUTSIDE


def inside(*addresses):
    return lambda host, limit_s: list(addresses)


def refused(url, lookup=outside, **more):
    with pytest.raises(Refused) as raised:
        check_url(url, lookup=lookup, **more)
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("HTTPS://Example.COM.:443/A?b=c", "example.com", 443, "/A?b=c", "example.com"),
        (
            "https://example.com:8443/%41/ü?q=ö",
            "example.com",
            8443,
            "/%41/%C3%BC?q=%C3%B6",
            "example.com:8443",
        ),
        ("https://bücher.example.com/", "xn--bcher-kva.example.com", 443, "/", "xn--bcher-kva.example.com"),
        ("https://93.184.215.14/", "93.184.215.14", 443, "/", "93.184.215.14"),
        ("https://[2606:2800:0:0::1]/", "2606:2800::1", 443, "/", "[2606:2800::1]"),
        ("https://a_b.x-1.example.com/", "a_b.x-1.example.com", 443, "/", "a_b.x-1.example.com"),
    ],
)
def test_addresses_of_the_internet_are_taken_in_one_form(url, host, port, path, authority):
    place = parsed(url)
    assert tuple(place) == ("https", host, port, path)
    assert place.authority == authority
    check_url(url, lookup=outside)


INSIDE = [
    *(
        "127.0.0.1",
        "127.8.9.1",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "0.0.0.0",
        "0.1.2.3",
    ),
    *(
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
    ),
    *("203.0.113.9", "198.51.100.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1"),
    *("::1", "::", "::ffff:10.0.0.1", "::ffff:93.184.215.14", "::127.0.0.1", "fe80::1", "fec0::1", "fc00::1"),
    *("fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1"),
    *(
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "100::1",
        "3fff::1",
        "2002:5db8:d70e::1",
        "5f00::1",
    ),
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_inside_address_is_refused_as_it_is_and_behind_a_name(address):
    literal = f"[{address}]" if ":" in address else address
    told = refused(f"https://{literal}/")
    assert told.final
    assert str(told) == "the host is not an address on the internet: give one that is, or a name"
    for found in ([address], [*OUTSIDE, address]):
        told = refused("https://hook.example.com/", inside(*found))
        assert not told.final
        assert address not in str(told)


def test_an_address_behind_a_translator_counts_as_the_one_within():
    check_url("https://hook.example.com/", lookup=inside("64:ff9b::5db8:d70e"))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "017700000001",
            "0x7F.0.0.0x1",
        ),
        *("127.0.0.1.", "0", "00", "127.0.0.01", "1.2.3.4.5", "256.1.1.1", "example.0x", "4294967296"),
        *("127。0。0。1", "127.0.0.1", "①②⑦.⓪.⓪.①", "2852039166", "0xa9fea9fe"),
    ],
)
def test_numbers_in_other_forms_are_refused_without_asking_a_resolver(host):
    def never(host, limit_s):
        raise AssertionError(host)

    assert refused(f"https://{host}/", never).final


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "LOCALHOST",
            "localhost.",
            "x.localhost",
            "db",
            "db.internal",
            "printer.local",
            "metadata",
        ),
        *("metadata.google.internal", "nas.home.arpa", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "a.onion"),
    ],
)
def test_names_of_the_inside_are_refused_without_asking_a_resolver(host):
    told = refused(f"https://{host}/", inside())
    assert told.final
    assert "inside network" in str(told)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("//example.com/", "must begin with https://"),
        ("https:/example.com", "must begin with https://"),
        ("", "must begin with https://"),
        ("https://user:word@example.com/", "a user or a password"),
        ("https://example.com@127.0.0.1/", "a user or a password"),
        ("https://example.com#@127.0.0.1/", "'#'"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://example.com/a b", "white space"),
        ("https://exam\tple.com/", "white space"),
        ("https://example.com/\r\nX: y", "white space"),
        ("https://exa%6dple.com/", "no host"),
        ("https://:443/", "no host"),
        ("https://[::1%25eth0]/", "no host"),
        ("https://[::1", "no URL"),
        ("https://[example.com]/", "no "),
        ("https://example.com:port/", "no URL"),
        ("https://example.com:99999/", "no URL"),
        ("https://example.com:22/", "port 22 is not for webhooks"),
        ("https://example.com:80/", "port 80 is not for webhooks"),
        ("https://example.com:0/", "port 0 is not for webhooks"),
        ("https://example.com:6379/", "port 6379 is not for webhooks"),
        ("https://a..b.com/", "name cannot be"),
        ("https://-a.com/", "name cannot be"),
        (f"https://{'a' * 64}.com/", "name cannot be"),
        (f"https://{'a.' * 130}com/", "name cannot be"),
        ("https://exam!ple.com/", "name cannot be"),
        ("https://♥.com/", "name cannot be"),
        (f"https://example.com/{'a' * LONGEST_URL}", "longer than"),
    ],
)
def test_what_no_webhook_may_be_is_said(url, said):
    told = refused(url)
    assert said in str(told)
    assert told.final


def test_a_name_that_is_unknown_is_told_as_one_that_leads_inside():
    def unknown(host, limit_s):
        raise socket.gaierror(-2, "Name or service not known")

    told = {
        str(refused("https://hook.example.com/", lookup))
        for lookup in (unknown, inside("10.0.0.1"), inside(), inside("nonsense"), inside("fe80::1%eth0"))
    }
    assert told == {"the host's name does not lead to an address on the internet"}


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://127.0.0.1:8000/", ["127.0.0.1"]),
        ("http://localhost:81/", ["127.0.0.1"]),
        ("https://127.0.0.2/", ["127.0.0.2"]),
        ("http://[::1]:8000/", ["::1"]),
    ],
)
def test_this_machine_is_for_tests_only(url, addresses):
    assert refused(url).final
    assert resolved(parsed(url, allow_http_loopback=True), allow_http_loopback=True) == addresses


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://127.1/", "http://[::ffff:127.0.0.1]/", "http://example.com/", "http://0/"],
)
def test_nothing_else_is_let_in_with_this_machine(url):
    assert refused(url, allow_http_loopback=True)


def test_the_systems_names_are_asked_within_a_limit():
    with pytest.raises(OSError, match=r"."):
        look_up("nowhere.invalid", 30.0)
    with pytest.raises(TimeoutError, match="no time left"):
        look_up("nowhere.invalid", 0.0)
    assert not refused("https://nowhere.invalid/", None, limit_s=0.0).final
