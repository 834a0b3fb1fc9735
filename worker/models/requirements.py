"""Say which extra to install when a handler's library is missing."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import ConfigurationError

__all__ = ("missing_package",)

EXTRAS: Mapping[str, str] = {
    "PIL": "image",
    "cv2": "onnx",
    "jinja2": "llm",
    "llguidance": "json-schema",
    "numpy": "torch",
    "onnx": "tools",
    "onnxruntime": "onnx",
    "onnxscript": "tools",
    "openvino": "openvino",
    "safetensors": "torch",
    "tokenizers": "torch",
    "torch": "torch",
    "transformers": "torch",
}
"""Top-level module to the extra of this project that installs it."""


def missing_package(model: str, error: ImportError) -> ConfigurationError:
    """The error to raise for a model whose library cannot be imported."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    remedy = f"pip install '.[{extra}]'" if extra else f"pip install {package or 'it'}"
    return ConfigurationError(f"models.{model}: {error}; install it with: {remedy}")
