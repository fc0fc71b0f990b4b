"""A server of PostgreSQL for each process of the tests, and databases in it."""

from __future__ import annotations

from fibflow.tests.io.postgresql.conftest import empty, server, url

__all__ = ["empty", "server", "url"]
