"""The way to a webhook: TLS, names and redirects, always to an address that was checked."""

from __future__ import annotations

import ssl
from contextlib import closing
from typing import Any

import pytest

from fibflow.io.alerts.claims import End
from fibflow.io.notify.addresses import parsed
from fibflow.io.notify.line import Lines
from fibflow.io.notify.webhook import Webhooks
from fibflow.tests.io.notify.hooks import Answer, Authority, hooks
from fibflow.tests.io.notify.sending import WORLD, send, world


def test_the_name_is_asked_once_and_exactly_what_was_checked_is_connected_to(secure, authority):
    names = []

    def lookup(host, limit_s):
        # The first answer is for the check, and a later one would lead inside.
        names.append(host)
        return WORLD if len(names) == 1 else ["127.0.0.1"]

    with world(authority, lookup) as (webhooks, lines):
        url = secure.url("/x", "hook.example.com")
        assert send(webhooks, url) == (End.DELIVERED, None)
        assert (names, lines.asked) == (["hook.example.com"], [WORLD])
        (request,) = secure.requests
        assert request.sni == "hook.example.com"
        assert request.headers["Host"] == f"hook.example.com:{secure.port}"
        # The same connection: it goes to the address that was checked.
        assert send(webhooks, url)[0] is End.DELIVERED
        assert len(names) == secure.connections == 1
        lines.close()
        inside = "the host's name does not lead to an address on the internet"
        assert send(webhooks, url) == (End.FAILED, inside)
        assert (len(names), len(lines.asked), len(secure.requests)) == (2, 1, 2)


def test_a_certificate_of_another_name_or_authority_is_refused(secure, authority, tmp_path):
    with world(authority) as (webhooks, _):
        end, error = send(webhooks, secure.url("/", "third.example.com"))
    assert (end, "its certificate is not trusted" in str(error)) == (End.FAILED, True)
    with world(Authority(tmp_path)) as (webhooks, _):
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
    assert (end, "its certificate is not trusted" in str(error)) == (End.FAILED, True)
    assert secure.requests == []


def test_an_address_as_host_needs_a_certificate_of_the_address(authority):
    with (
        hooks(authority.context("127.0.0.1")) as server,
        closing(Webhooks(allow_http_loopback=True, lines=Lines(context=authority.client()))) as webhooks,
    ):
        assert send(webhooks, server.url()) == (End.DELIVERED, None)


def test_who_speaks_no_tls_is_told(plain, authority):
    with world(authority) as (webhooks, _):
        url = plain.url("/", "hook.example.com").replace("http:", "https:")
        assert send(webhooks, url) == (End.FAILED, "no TLS connection can be made")


def test_of_several_addresses_the_next_is_taken_where_one_takes_no_connection(plain):
    place = parsed(plain.url(), allow_http_loopback=True)
    lines = Lines(lambda: 0.0)
    with closing(lines.connect(place, ["127.0.0.2", "127.0.0.1"], 3.0)) as line:
        assert line.is_fit()
    with closing(lines):
        assert lines.take(place) is None


def test_of_several_addresses_none_has_more_than_its_part_of_the_time(authority):
    given = []

    class Noting(ssl.SSLContext):
        def wrap_socket(self, sock: Any, *args: Any, **more: Any) -> Any:
            given.append(sock.gettimeout())
            return super().wrap_socket(sock, *args, **more)

    context = Noting(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    with hooks(authority.context("127.0.0.1")) as server:
        addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        Lines(lambda: 0.0, context).connect(
            parsed(server.url(), allow_http_loopback=True), addresses, 30.0
        ).close()
    assert given == [10.0]


def test_a_redirect_keeps_the_request_and_is_checked_like_the_first_address(secure, authority):
    with hooks(authority.context("other.example.com")) as other, world(authority) as (webhooks, lines):
        target = other.url("/to", "other.example.com")
        secure.answer = lambda _: Answer(308, (("Location", target),))
        assert send(webhooks, secure.url("/from", "hook.example.com"), "hush") == (End.DELIVERED, None)
        first, second = secure.requests + other.requests
        assert first.body == second.body
        assert second.path == "/to"
        assert first.headers["Fibflow-Signature"] == second.headers["Fibflow-Signature"]
        assert len(lines.asked) == 2


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433/",
        "https://localhost/",
        "http://other.example.com/",
        "http://127.0.0.1/",
        "//10.0.0.1/x",
        "file:///etc/passwd",
        "https://user@other.example.com/",
        "https://[/",
    ],
)
def test_a_redirect_inside_is_not_followed(secure, authority, location):
    with world(authority) as (webhooks, lines):
        secure.answer = lambda _: Answer(307, (("Location", location),))
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
        assert end is End.FAILED
        assert str(error).startswith("redirects to where no webhook may be: ")
        assert len(lines.asked) == 1


def test_what_a_redirect_says_is_not_repeated(secure, authority):
    with world(authority) as (webhooks, _):
        secure.answer = lambda _: Answer(307, (("Location", f"https://[{'x' * 50_000}]/"),))
        found = send(webhooks, secure.url("/", "hook.example.com"))
    assert found == (End.FAILED, "redirects to where no webhook may be: that is no URL")


def test_a_redirect_to_a_name_that_leads_inside_is_not_followed(secure, authority):
    def lookup(host, limit_s):
        return WORLD if host == "hook.example.com" else ["10.0.0.1"]

    with world(authority, lookup) as (webhooks, lines):
        secure.answer = lambda _: Answer(307, (("Location", "https://other.example.com/"),))
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
        assert (end, error) == (End.FAILED, "the host's name does not lead to an address on the internet")
        assert len(lines.asked) == 1


def test_a_redirect_from_https_to_http_is_not_followed_in_tests_either(authority, plain):
    with (
        hooks(authority.context("127.0.0.1")) as server,
        closing(Webhooks(allow_http_loopback=True, lines=Lines(context=authority.client()))) as webhooks,
    ):
        server.answer = lambda _: Answer(307, (("Location", plain.url()),))
        assert send(webhooks, server.url()) == (End.FAILED, "redirects from https to http")
    assert plain.requests == []


def test_redirects_in_a_circle_end(secure, authority):
    with world(authority) as (webhooks, _):
        secure.answer = lambda _: Answer(307, (("Location", "/again"),))
        found = send(webhooks, secure.url("/", "hook.example.com"))
        assert found == (End.FAILED, "redirects more than 3 times")
        assert [each.path for each in secure.requests] == ["/", "/again", "/again", "/again"]
