"""How a model gets from the catalog onto a device."""

from __future__ import annotations

from collections.abc import Callable

from common.catalog import ModelSpec
from common.settings import DeviceSettings
from worker.devices.torch_setup import prepare
from worker.models import load_handler
from worker.models.base import Model


def loader_for(device: str, settings: DeviceSettings) -> Callable[[ModelSpec], Model]:
    """What makes a handler and has it load its weights; it raises what the handler raises."""

    def load(spec: ModelSpec) -> Model:
        handler = load_handler(spec)
        # Before, so that a cap on memory covers the weights; after, because what is not
        # imported yet cannot be set.
        prepare(device, settings)
        handler.load(spec, device)
        prepare(device, settings)
        return handler

    return load
