"""The servers of one model: which gets a request, and what becomes of it where one is away.

A request goes to the server with the fewest outstanding ones. Each server has a circuit: after
failures in a row it gets none for a growing pause, then a single one. A request that fails for its
server's fault goes to each other server once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from common.errors import InvalidInput, ServerFailed
from worker.models.generation.server_circuit import Circuit

__all__ = ("Arrays", "Request", "Server", "Servers", "said_of")

log = structlog.get_logger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""By the names of inputs or outputs."""
_REFUSALS = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION")
"""What a server says of requests that are at fault themselves."""
_MANY = 1 << 30


class Server:
    """One server, by as many connections as asked for."""

    def __init__(self, url: str, channels: int, ssl: bool) -> None:
        import tritonclient.grpc as triton

        self.url = url
        # Without a pool of its own each, all channels to an address share one connection.
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._clients = [
            triton.InferenceServerClient(url, ssl=ssl, channel_args=own) for _ in range(channels)
        ]
        self._next = count()
        self.circuit = Circuit(_MANY)
        self.outstanding = 0

    @property
    def client(self) -> Any:
        """The next connection's client."""
        return self._clients[next(self._next) % len(self._clients)]

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


class Request:
    """One call of the model, wherever it runs."""

    def __init__(self, inputs: Arrays, outputs: Sequence[str]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.tried: set[str] = set()
        self.answer: Future[Arrays] = Future()


class Servers:
    """Sends requests. Safe on any thread; answers come on threads of gRPC."""

    def __init__(self, servers: Sequence[Server], model: str, version: str, seconds: float) -> None:
        self.all = servers
        self._model, self._version = model, version
        self._seconds = seconds
        self._lock = threading.Lock()

    def send(self, request: Request) -> None:
        """Send it to the least loaded server that it was not sent to yet."""
        import tritonclient.grpc as triton

        server = self._take(request)
        if server is None:
            request.answer.set_exception(
                ServerFailed(
                    f"no Triton server answers ({', '.join(one.url for one in self.all)}); "
                    "start one, or see options.url"
                )
            )
            return
        began = time.monotonic()
        try:
            inputs = [_input(triton, name, array) for name, array in request.inputs.items()]
            outputs = [triton.InferRequestedOutput(name) for name in request.outputs]
            server.client.async_infer(
                self._model,
                inputs,
                lambda result, error: self._answered(request, server, began, result, error),
                model_version=self._version,
                outputs=outputs,
                client_timeout=self._seconds,
            )
        except Exception as exc:  # noqa: BLE001 - whatever it is, the request has an end
            self._answered(request, server, began, None, exc)

    def _take(self, request: Request) -> Server | None:
        now = time.monotonic()
        with self._lock:
            able = [
                one
                for one in self.all
                if one.url not in request.tried and one.circuit.room(now) > one.outstanding
            ]
            # Where all circuits are open, one is asked all the same: there is nothing to lose.
            if not able and not request.tried:
                able = [one for one in self.all if one.outstanding == 0] or list(self.all)
            if not able:
                return None
            # One that failed is tried first, by one request: else it would stay away while there is
            # little to do.
            server = min(able, key=lambda one: (one.outstanding, one.circuit.room(now) != 1))
            server.outstanding += 1
            request.tried.add(server.url)
            return server

    def _answered(
        self, request: Request, server: Server, began: float, result: Any, error: Any
    ) -> None:
        arrays: Arrays = {}
        try:
            if error is None:
                arrays = {name: result.as_numpy(name) for name in request.outputs}
        except Exception as exc:  # noqa: BLE001 - of a server that dies, half an answer may come
            error = exc
        refused = error is not None and _status(error) in _REFUSALS
        with self._lock:
            server.outstanding -= 1
            if error is None or refused:
                was_open = server.circuit.room(time.monotonic()) == 1
                server.circuit.succeeded()
                pause = 0.0
                if was_open:
                    log.info("triton_recovered", url=server.url)
            else:
                pause = server.circuit.failed(time.monotonic(), began)
        if refused:
            request.answer.set_exception(InvalidInput(f"the model refuses it: {said_of(error)}"))
        elif error is None:
            request.answer.set_result(arrays)
        else:
            log.warning("triton_failed", url=server.url, error=said_of(error), pause_seconds=pause)
            self._elsewhere(request, error)

    def _elsewhere(self, request: Request, error: Any) -> None:
        if len(request.tried) < len(self.all):
            self.send(request)
        else:
            request.answer.set_exception(ServerFailed(f"Triton failed: {said_of(error)}"))

    def close(self) -> None:
        """Close all connections."""
        for server in self.all:
            server.close()


def _input(triton: Any, name: str, array: NDArray[Any]) -> Any:
    from tritonclient.utils import np_to_triton_dtype

    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(np.ascontiguousarray(array))
    return made


def _status(error: Any) -> str:
    """`UNAVAILABLE` and the like."""
    status = error.status() if hasattr(error, "status") else None
    return str(status).rpartition(".")[2]


def said_of(error: Any) -> str:
    """What a server, or gRPC, says of a failure."""
    said = error.message() if hasattr(error, "message") else str(error)
    return str(said or type(error).__name__)[:300]
