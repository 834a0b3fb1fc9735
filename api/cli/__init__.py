"""The command line: `lanefleet`."""

from api.cli.main import app, main

__all__ = ["app", "main"]
