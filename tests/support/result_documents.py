"""The result documents that both writers and the reader are held against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from common.jobs.record import JobRecord, JobState
from tests.support.stack import DATA

FILE = DATA / "result_documents.json"


@dataclass(frozen=True)
class GoldenDocument:
    """One kind of ending: what is known of the job, what is written and what is read back."""

    name: str
    writer: str
    """Of Python: success, failure or cache_hit; of Lua: the script's name."""
    known: dict[str, Any]
    document: dict[str, Any]
    text: str
    """Byte by byte, where a writer makes it by hand; else empty."""
    reads_as: dict[str, Any]

    @property
    def in_lua(self) -> bool:
        """Whether a script writes it."""
        return self.writer not in ("success", "failure", "cache_hit")

    @property
    def job_id(self) -> str:
        """Whose result it is."""
        return str(self.document["task_id"])

    @property
    def record(self) -> JobRecord:
        """What the reader makes of it."""
        known = {**self.reads_as, "state": JobState(self.reads_as["state"])}
        return JobRecord(id=self.job_id, **known)

    def holds(self, written: bytes) -> None:
        """Fail where this is not what was written."""
        assert json.loads(written) == self.document
        if self.text:
            assert written.decode() == self.text


def golden_documents() -> list[GoldenDocument]:
    """Every entry of the file."""
    return [
        GoldenDocument(
            name,
            entry["writer"],
            entry["known"],
            json.loads(entry["text"]) if "text" in entry else entry["document"],
            entry.get("text", ""),
            entry["reads_as"],
        )
        for name, entry in json.loads(FILE.read_text(encoding="utf-8")).items()
    ]
