"""Check docker-compose.yml: with Docker's own Compose where there is one, else by the schema.

    make compose-check

The old docker-compose refuses the key `name`, so it gets the file without it. The schema is
narrower than the format on purpose: it refuses a misspelt key, which Compose may let pass.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker-compose.yml"
SCHEMA = ROOT / "tests" / "data" / "compose.schema.json"
PROFILES = ("cpu", "gpu", "monitoring")


def load() -> dict[str, Any]:
    """Return the file with its anchors and merges resolved."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def schema_errors(compose: dict[str, Any]) -> list[str]:
    """Say what is wrong by the schema, a line each."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    errors = jsonschema.Draft7Validator(schema).iter_errors(compose)
    return [f"{error.json_path}: {error.message}" for error in errors]


def command_of() -> "list[str] | None":
    """Return the Compose of this machine, or None."""
    docker = shutil.which("docker")
    if docker:
        asked = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return [docker, "compose"]
    old = shutil.which("docker-compose")
    return [old] if old else None


def compose_errors(command: list[str], compose: dict[str, Any]) -> str:
    """Return what Compose says against the file, all profiles switched on; empty is nothing."""
    if len(command) == 1:  # docker-compose 1
        compose = {key: value for key, value in compose.items() if key != "name"}
    switched = [word for profile in PROFILES for word in ("--profile", profile)]
    result = subprocess.run(
        [*command, "--project-directory", str(ROOT), *switched, "-f", "-", "config", "--quiet"],
        input=json.dumps(compose), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return result.stderr.strip() if result.returncode else ""


def main() -> int:
    """Print what is wrong; return the exit status."""
    compose = load()
    errors = schema_errors(compose)
    command = command_of()
    if command and not errors and (said := compose_errors(command, compose)):
        errors = [said]
    for error in errors:
        print(f"docker-compose.yml: {error}", file=sys.stderr)
    by = f"{Path(command[0]).name} and its schema" if command else "its schema alone (no Compose)"
    if not errors:
        print(f"docker-compose.yml is in order, by {by}")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
