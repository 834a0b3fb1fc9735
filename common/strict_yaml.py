"""Reads a YAML file that people write, and says in one line what is wrong with it.

PyYAML keeps the last of two equal keys: a model that is entered twice would lose one of its
entries silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from common.errors import ConfigurationError

__all__ = ("read_yaml",)

_MERGE = "<<"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice in one mapping."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == _MERGE:
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice; remove or rename one",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return node


def read_yaml(path: Path) -> Any:
    """The file's document; raises OSError, and ConfigurationError with file, line and reason."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigurationError(
            f"{path}, line {line}: byte 0x{exc.object[exc.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from exc
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        where = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise ConfigurationError(f"{path}{where}: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        said = " ".join(str(exc).split())
        raise ConfigurationError(f"{path} is not valid YAML: {said}") from exc
