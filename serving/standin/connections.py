"""Connections that an application can break in the middle, as networks do."""

from __future__ import annotations

from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from fibflow.serving.protocol import BoundedProtocol
from fibflow.serving.server import config_of
from fibflow.serving.settings import Settings

#: The extension of a scope that breaks its connection.
ABORT = "fibflow.abort"


class BreakableHttp(BoundedProtocol):
    """A connection of HTTP whose requests can break it."""

    scope: Any

    def on_headers_complete(self) -> None:
        """Hand on what breaks the connection, once what was sent is on its way."""
        self.scope.setdefault("extensions", {})[ABORT] = self.transport.close
        super().on_headers_complete()


class BreakableSocket(WebSocketsSansIOProtocol):
    """A WebSocket that can be broken without a farewell, once what was sent is on its way."""

    scope: Any

    async def run_asgi(self) -> None:
        """Hand on what breaks the connection."""
        self.scope["extensions"][ABORT] = self.transport.close
        await super().run_asgi()


def breakable(app: Any, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves an application that breaks connections."""
    config = config_of(app, settings)
    config.http = BreakableHttp
    config.ws = BreakableSocket
    return config
