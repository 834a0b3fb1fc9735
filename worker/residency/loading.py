"""Creates the handler of a catalog entry on a device."""

from __future__ import annotations

from collections.abc import Callable

from common.catalog import ModelSpec
from common.settings import DeviceSettings
from worker.devices.torch_setup import prepare
from worker.models import load_handler
from worker.models.base import Model


def loader_for(device: str, settings: DeviceSettings) -> Callable[[ModelSpec], Model]:
    """A function that creates a handler and loads its weights; raises what the handler raises."""

    def load(spec: ModelSpec) -> Model:
        handler = load_handler(spec)
        # Before the load, so that a memory cap covers the weights; and after it, because a
        # module that is not imported yet cannot be configured.
        prepare(device, settings)
        handler.load(spec, device)
        prepare(device, settings)
        return handler

    return load
