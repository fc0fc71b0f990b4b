"""Serving with uvicorn: one process, or several on one socket; what happens when it is told to stop."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from fibflow.serving import rates
from fibflow.serving.cli import FAILED, OK, ServeError
from fibflow.serving.protocol import BoundedProtocol
from fibflow.serving.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fibflow.serving.services import Services

_BACKLOG = 2_048
#: What a client sends to a WebSocket is some hundred topics at most.
_MESSAGE_BYTES = 256 << 10
#: For clients of WebSockets to be told that the server goes.
_FAREWELL_S = 1.0
_POLL_S = 0.05
#: For what is not an answer, when a server stops.
_LAST_S = 10.0
#: Between threads that compute, seconds.
_SWITCH_S = 0.0005
_NOT_STARTED = "the server does not start: the log above says why"
_PR_SET_PDEATHSIG = 1
#: From glibc's malloc.h.
_M_ARENA_MAX = -8


@dataclass(frozen=True)
class Application:
    """Makes the application in the process that serves it. Picklable."""

    settings: Settings

    def __call__(self) -> FastAPI:
        """Return the application."""
        if self.settings.workers > 1:
            _end_with_parent()
        from fibflow.serving import logs
        from fibflow.serving.app import create_app

        logs.set_up(os.environ.get("FIBFLOW_LOG", "WARNING").upper())
        _bound_heaps()
        # A thread that has read waits so long at most for one that computes: by default ten times that.
        sys.setswitchinterval(_SWITCH_S)
        made = create_app(self.settings)
        # What is there for good is not looked through again and again.
        gc.collect()
        gc.freeze()
        # Extensions say what they find alive at the end.
        atexit.register(gc.unfreeze)
        return made


class Server(uvicorn.Server):
    """A server that tells its application before it closes connections.

    Attributes:
        alone: it has a process of its own, which ends in time also where something in it hangs.
    """

    alone = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let the application say farewell, then let running answers end."""
        if self.alone:
            # A thread that reads from a store that hangs would hold the interpreter up for ever.
            last = threading.Timer(
                (self.config.timeout_graceful_shutdown or 0) + _LAST_S, os._exit, (FAILED,)
            )
            last.daemon = True
            last.start()
        services = self._services()
        if services is not None:
            services.closing.set()
            for server in self.servers:
                server.close()
            until = time.monotonic() + _FAREWELL_S
            while self._has_sockets() and time.monotonic() < until:
                await asyncio.sleep(_POLL_S)
        await super().shutdown(sockets)

    def _services(self) -> Services | None:
        app: Any = self.config.loaded_app
        while app is not None and not hasattr(app, "state"):
            app = getattr(app, "app", None)
        return getattr(app.state, "services", None) if app is not None else None

    def _has_sockets(self) -> bool:
        return any("websocket" in type(one).__name__.lower() for one in self.server_state.connections)


class _Worker(Process):
    """A process that serves."""

    @cached_property
    def server(self) -> uvicorn.Server:
        made = Server(self.config)
        made.alone = True
        return made


class _Workers(Multiprocess):
    """Processes that serve one socket; one that dies is replaced.

    Attributes:
        failed: one did not start, so none would.
    """

    failed = False

    def init_processes(self) -> None:
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        for place, worker in enumerate(self.processes):
            # Not asked whether it answers: one that is just starting does not, and signals would wait for it.
            if self.should_exit.is_set() or worker.process.is_alive():
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                self.failed = True
                self.should_exit.set()
                return
            self.processes[place] = self._started()

    def terminate_all(self) -> None:
        # Who comes now would wait for nobody.
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def _started(self) -> Process:
        worker = _Worker(self.config, self.sockets)
        worker.start()
        return worker


def config_of(app: Any, settings: Settings, factory: bool = False) -> uvicorn.Config:
    """Return how uvicorn serves an application."""
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=BoundedProtocol,
        ws="websockets-sansio",
        ws_max_size=_MESSAGE_BYTES,
        # A thousand clients of one feed would have it compressed a thousand times.
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(max(1, settings.stop_s)),
    )


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        ServeError: the address cannot be listened on, or no worker starts.
    """
    with ExitStack() as held:
        listening = held.enter_context(listen(settings.host, settings.port))
        port = listening.getsockname()[1]
        if settings.workers > 1:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="fibflow-serving-")))
            # Before anything imports prometheus_client, which looks once.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            shared = folder / "rates"
            shared.write_bytes(bytes(rates.SIZE))
            settings = replace(settings, shared=str(shared))
        config = config_of(Application(settings), settings, factory=True)
        stopping = threading.Event()
        held.callback(stopping.set)
        threading.Thread(target=_tell, args=(settings, port, stopping), daemon=True).start()
        with _ends_quietly():
            if settings.workers > 1:
                workers = _Workers(config, [listening])
                workers.run()
                if workers.failed:
                    raise ServeError(_NOT_STARTED)
            else:
                server = Server(config)
                server.alone = True
                server.run([listening])
    return OK


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises:
        ServeError: it cannot.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
    except OSError as error:
        raise ServeError(f"--host {host} is no address of this machine: {error.strerror}") from None
    with made:
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(_BACKLOG)
        except OSError as error:
            raise ServeError(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what does, or give another --port"
            ) from None
        made.set_inheritable(True)
        yield made


def url_of(host: str, port: int) -> str:
    """Return the address at which a browser on this machine finds the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address: this machine's own
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _tell(settings: Settings, port: int, stopping: threading.Event) -> None:
    """Say the address once the server answers."""
    url = url_of(settings.host, port)
    while not stopping.wait(_POLL_S):
        if _answers(url):
            break
    else:
        return
    line = json.dumps({"url": url, "port": port}) if settings.port == 0 else f"serving at {url}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _answers(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """Let SIGTERM end the server and not the process: uvicorn raises it again when it is done."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    except KeyboardInterrupt:
        pass
    except SystemExit:
        raise ServeError(_NOT_STARTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _bound_heaps() -> None:
    """Let threads share two heaps: with one each, as glibc has it, exports leave theirs full of holes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _end_with_parent() -> None:
    """Let this process be told to stop when its parent is gone, however that happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
