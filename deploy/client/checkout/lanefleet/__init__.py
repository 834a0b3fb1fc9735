"""The name that the client has in its own wheel, in a checkout: the same modules and objects.

Each module is registered under both names. Found by its path it would be loaded again, and an
`except lanefleet.ApiError` would not catch what `api.client` raises.
"""

import sys
from importlib import import_module
from pkgutil import iter_modules

_client = import_module("api.client")
for _found in iter_modules(_client.__path__):
    sys.modules[f"{__name__}.{_found.name}"] = import_module(f"api.client.{_found.name}")
sys.modules[__name__] = _client
