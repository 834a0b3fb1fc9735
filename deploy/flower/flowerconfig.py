"""Flower's own options: a login from a file, and nothing that changes the fleet."""

from pathlib import Path

port = 5555
read_only = True
basic_auth = [Path("/run/secrets/flower_auth").read_text(encoding="utf-8").strip()]
