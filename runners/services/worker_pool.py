"""Beam's Python worker pool: the ``EXTERNAL`` environment, where task managers have Python workers started.

``python -m fibflow.runners.services.worker_pool --port 50000`` is Beam's ``worker_pool_main`` but for two
things. It listens on the loopback address only, for whoever reaches a pool may have it run any code. And
its workers cache state, as they do by default in Beam's containers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fibflow.runners.services.process import HOST, Service, ServiceError, speaks_grpc

STATE_CACHE_MB = 100


class WorkerPool(Service):
    """A pool of Python workers of this environment.

    Args:
        port: Its port.
        variables: What the workers find in their environment: the addresses of the other servers.
    """

    name = "worker-pool"

    def __init__(self, port: int, variables: Mapping[str, str]) -> None:
        self.port = port
        self.variables = dict(variables)

    def prepare(self) -> None:
        """Look whether what it needs is there.

        Raises:
            ServiceError: Beam is not installed, or a worker would not be this Python.
        """
        if importlib.util.find_spec("apache_beam") is None:
            raise ServiceError("no apache_beam here: run `make setup`")
        folder = Path(sys.executable).parent
        if shutil.which("python", path=str(folder)) is None:
            raise ServiceError(
                f"no `python` in {folder}, by which a pool starts workers: use a virtual environment"
            )

    def command(self, start: int) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-P", "-m", "fibflow.runners.services.worker_pool", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the workers' variables; the pool starts `python`, which must be this one."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        # Workers run `python -c`, which would look for modules in the working folder first.
        return {**self.variables, "PATH": path, "PYTHONSAFEPATH": "1"}

    def answers(self, start: int) -> bool:
        """Return whether it speaks gRPC."""
        return speaks_grpc(self.port)

    def exports(self) -> dict[str, str]:
        """Return ``BEAM_WORKER_POOL``: the ``--environment_config`` of an ``EXTERNAL`` environment."""
        return {"BEAM_WORKER_POOL": self.address}


def serve(port: int, state_cache_mb: int = STATE_CACHE_MB) -> None:
    """Serve until killed.

    Args:
        port: The loopback port to listen on.
        state_cache_mb: How much user state a worker keeps between bundles.
    """
    # A program that only starts the pool needs none of these.
    import grpc  # type: ignore[import-untyped]  # ships no types
    from apache_beam.portability.api import beam_fn_api_pb2_grpc
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
    from apache_beam.utils import thread_pool_executor

    servicer = BeamFnExternalWorkerPoolServicer(
        use_process=True, state_cache_size=state_cache_mb << 20, data_buffer_time_limit_ms=-1
    )
    # As Beam's own pool has them.
    options = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)]
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=options)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(servicer, server)
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    sys.stdout.write(f"starts workers for whoever asks at {HOST}:{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pool's command line."""
    parser = argparse.ArgumentParser(description="Start Python workers for Beam's task managers.")
    parser.add_argument("--port", type=int, required=True, help="the loopback port to listen on")
    parser.add_argument(
        "--state-cache-mb",
        type=int,
        default=STATE_CACHE_MB,
        help="user state that a worker keeps (default: 100)",
    )
    args = parser.parse_args(argv)
    serve(args.port, args.state_cache_mb)


if __name__ == "__main__":
    main()
