"""A model that runs in Triton: jobs keep their leases, batches and deadlines here.

What it takes and gives is read from the server at load. Items of one shape go in one request, as
far as the model takes batches; requests of a batch are on their way together, and the device thread
does not wait for them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput, ServerFailed
from worker.models.base import Json
from worker.models.params import refuse_unknown
from worker.models.requirements import missing_package
from worker.models.triton.ports import Ports, as_array, as_json, check_against
from worker.models.triton.servers import Request, Server, Servers, said_of
from worker.transfer import Later

__all__ = ("Triton",)

SECONDS, CONNECT_SECONDS = 30.0, 5.0
_FILES = ("BYTES", "UINT8")
MAX_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One job's inputs by name, without the batch."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Items of equal shapes may share a request."""
        return tuple(array.shape for array in self.arrays.values())


class Triton:
    """Runs each batch in one of the servers that `options.url` names."""

    pads = False
    backend = "triton"

    def __init__(self) -> None:
        self._servers: Servers | None = None
        self._ports = Ports((), (), 0)
        self._outputs: tuple[str, ...] = ()
        self._kind = "json"

    def load(self, spec: ModelSpec, device: str) -> None:  # noqa: ARG002  the server has its own
        """Ask the servers for the model. options: url (host:port, or a list), model,
        model_version, channels, timeout_seconds, ssl, inputs, outputs.
        """
        try:
            import tritonclient.grpc  # noqa: F401
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        options = spec.options
        urls = _urls_of(spec)
        channels = options.get("channels", 1)
        if type(channels) is not int or not 0 < channels <= MAX_CHANNELS:
            raise ConfigurationError(
                f"models.{spec.name}.options.channels must be 1 to {MAX_CHANNELS}, not {channels!r}"
            )
        servers = [Server(url, channels, bool(options.get("ssl"))) for url in urls]
        model = str(options.get("model", spec.name.partition("@")[0]))
        version = str(options.get("model_version", ""))
        seconds = float(options.get("timeout_seconds", SECONDS))
        self._servers = Servers(servers, model, version, seconds)
        try:
            self._ports = _ask(spec.name, servers, model, version)
            self._check(spec)
        except BaseException:
            self._servers.close()
            raise

    def _check(self, spec: ModelSpec) -> None:
        ports = self._ports
        check_against(spec.name, "inputs", ports.inputs, spec.options.get("inputs"))
        check_against(spec.name, "outputs", ports.outputs, spec.options.get("outputs"))
        named = spec.options.get("outputs")
        self._outputs = (
            tuple(map(str, named)) if named else tuple(one.name for one in ports.outputs)
        )
        self._kind = spec.input
        if self._kind != "json" and (
            len(ports.inputs) != 1 or ports.inputs[0].datatype not in _FILES
        ):
            raise ConfigurationError(
                f"models.{spec.name}.input: {self._kind} is one input of type BYTES or UINT8, and "
                f"the server's model takes {', '.join(map(str, ports.inputs))}; set input: json"
            )

    def decode(self, value: Any, params: Mapping[str, Any]) -> Item:
        """The inputs by name. JSON is a mapping of them, or the value of the only one."""
        refuse_unknown(params, ())
        ports = self._ports.inputs
        if self._kind == "text":
            value = value.encode("utf-8", "surrogatepass")
        if self._kind != "json":
            return Item({ports[0].name: as_array(ports[0], value)})
        names = {port.name for port in ports}
        if len(ports) == 1 and not (isinstance(value, dict) and value.keys() == names):
            value = {ports[0].name: value}
        if not isinstance(value, dict) or value.keys() != names:
            raise InvalidInput(f"send an object of {', '.join(map(str, ports))}")
        return Item({port.name: as_array(port, value[port.name]) for port in ports})

    def cost(self, item: Item) -> float:
        """Its numbers and texts."""
        return float(sum(array.size for array in item.arrays.values()) or 1)

    def infer(self, items: Sequence[Item]) -> Later:
        """Send the batch, in as many requests as it takes."""
        assert self._servers is not None
        groups = self._groups(items)
        requests = [self._request([items[at] for at in group]) for group in groups]
        began = time.monotonic()
        for request in requests:
            self._servers.send(request)

        def outputs() -> list[Mapping[str, NDArray[Any]]]:
            found: dict[int, Mapping[str, NDArray[Any]]] = {}
            for group, request in zip(groups, requests, strict=True):
                found.update(zip(group, self._rows(request, len(group)), strict=True))
            return [found[at] for at in range(len(items))]

        return Later(
            lambda: all(request.answer.done() for request in requests),
            outputs,
            lambda: time.monotonic() - began,
        )

    def _groups(self, items: Sequence[Item]) -> list[list[int]]:
        """Positions of the items of each request."""
        most = self._ports.max_batch or 1
        alike: defaultdict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
        for at, item in enumerate(items):
            alike[item.shapes].append(at)
        return [
            group[first : first + most]
            for group in alike.values()
            for first in range(0, len(group), most)
        ]

    def _request(self, items: Sequence[Item]) -> Request:
        inputs = {
            port.name: np.stack([item.arrays[port.name] for item in items])
            if self._ports.max_batch
            else items[0].arrays[port.name]
            for port in self._ports.inputs
        }
        return Request(inputs, self._outputs)

    def _rows(self, request: Request, count: int) -> list[Mapping[str, NDArray[Any]]]:
        arrays = request.answer.result()
        if not self._ports.max_batch:
            return [arrays]
        for name, array in arrays.items():
            if array is None or len(array) != count:
                raise ServerFailed(f"the model gives no row of {name!r} for each item")
        return [{name: array[row] for name, array in arrays.items()} for row in range(count)]

    def encode(self, output: Mapping[str, NDArray[Any]]) -> Json:
        """The outputs by name."""
        return {name: as_json(array) for name, array in output.items()}

    def unload(self) -> None:
        """Close the connections."""
        if self._servers is not None:
            self._servers.close()


def _urls_of(spec: ModelSpec) -> list[str]:
    named = spec.options.get("url")
    urls = [named] if isinstance(named, str) else named
    if not isinstance(urls, list) or not urls or not all(isinstance(one, str) for one in urls):
        raise ConfigurationError(
            f"models.{spec.name}.options.url must be host:port of a Triton server's gRPC port, or "
            "a list of them"
        )
    for one in urls:
        if "/" in one or ":" not in one:
            raise ConfigurationError(
                f"models.{spec.name}.options.url: {one!r} must be host:port, of gRPC (8001 by "
                "default), without a scheme"
            )
    return list(dict.fromkeys(urls))


def _ask(name: str, servers: Sequence[Server], model: str, version: str) -> Ports:
    """What the first server that answers says of the model; others must say the same later."""
    said: list[str] = []
    found: Ports | None = None
    for server in servers:
        try:
            ports = _ask_one(server, model, version)
        except Exception as exc:  # noqa: BLE001 - grpc's and tritonclient's own
            said.append(f"{server.url}: {said_of(exc)}"[:200])
            continue
        if found is not None and ports != found:
            raise ConfigurationError(
                f"models.{name}.options.url: {server.url} has another model {model!r} than the "
                f"others: {', '.join(map(str, ports.inputs))}"
            )
        found = ports
    if found is None:
        raise ConfigurationError(
            f"models.{name}.options.url: no Triton server serves {model!r} ({'; '.join(said)}); "
            "start it, or correct url and model"
        )
    return found


def _ask_one(server: Server, model: str, version: str) -> Ports:
    client, limit = server.client, {"client_timeout": CONNECT_SECONDS}
    metadata = client.get_model_metadata(model, version, as_json=True, **limit)
    config = client.get_model_config(model, version, as_json=True, **limit)
    return Ports.of(metadata, config.get("config", {}))
