"""What a run says: JSON lines on standard output for schedulers, or lines on standard error."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from api.client import ClientError

err = Console(stderr=True)


class Say:
    """Says it in one of the two ways."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = err
        self._is_gone = False

    def event(self, name: str, **facts: Any) -> None:
        """One JSON line, in JSON mode; raises ClientError, once, where nobody takes it."""
        if not self.as_json or self._is_gone:
            return
        try:
            sys.stdout.write(json.dumps({"event": name, **facts}) + "\n")
            sys.stdout.flush()
        except OSError as exc:
            self._is_gone = True
            # What is still buffered would be written, and raise, once more at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise ClientError(f"standard output cannot be written ({exc})") from exc

    def line(self, text: str) -> None:
        """One line for people."""
        if not self.as_json:
            self.console.print(escape(text), highlight=False, soft_wrap=True)

    def trouble(self, text: str, **facts: Any) -> None:
        """Why it could not run, or not to the end."""
        self.event("error", message=text, **facts)
        if not self.as_json or self._is_gone:
            red = f"[red]lanefleet:[/] {escape(text)}"
            self.console.print(red, highlight=False, soft_wrap=True)
