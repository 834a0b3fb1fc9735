"""The views of succeeded jobs, from the text of their stored results.

What a model returned is copied and not parsed, and what the jobs of a batch have in common is
written once. By a record and its view a job of a request for thousands takes several times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from api.http.request_context import current_root
from api.http.timestamps import moment
from api.jobs.links import JOBS_PATH, is_plain_id
from common.jobs.record import AFTER_RESULT, BEFORE_RESULT, JobRecord

_ABOUT = b'"lanefleet":{"state":"succeeded",'
_OWN = b',"attempts":'
"""Where the fields of a batch end, and those of one of its jobs begin."""
_TENANT = b',"tenant":"'
_OWN_FIELDS = frozenset(("attempts", "created_ms", "started_ms", "tenant", "call"))
_BATCHES = 256
"""Batches whose text is kept."""


class _Batch(NamedTuple):
    """Parts of a view that the jobs of one batch share."""

    model: bytes
    finished_at: bytes
    about: bytes


class StoredViews:
    """Writes the views of one response, each with its line break."""

    def __init__(self, owns: Callable[[str], bool], *, minimal: bool = False) -> None:
        """owns says whether a tenant's jobs may be shown; minimal leaves out all but id, state and
        result.
        """
        self._owns = owns
        self._write = self._minimal if minimal else self._full
        self._path = orjson.dumps(current_root() + JOBS_PATH)[1:-1]
        self._batches: dict[bytes, _Batch | None] = {}
        self._moments: dict[int, bytes] = {}

    def line(self, job_id: str, meta: bytes) -> bytes | None:
        """The view; None where it takes a record: the job did not succeed, is another tenant's,
        or its result has another form than `Stamp.success` writes.
        """
        end = meta.rfind(AFTER_RESULT)
        at = meta.find(_ABOUT, end)
        if end < 0 or at < 0 or not meta.startswith(BEFORE_RESULT) or not is_plain_id(job_id):
            return None
        batch, found, own = meta[at + len(_ABOUT) : -1].partition(_OWN)
        if not found or not self._owns(own.partition(_TENANT)[2].partition(b'"')[0].decode()):
            return None
        return self._write(job_id.encode(), meta[len(BEFORE_RESULT) : end], batch, own)

    def _minimal(self, job_id: bytes, result: bytes, _batch: bytes, _own: bytes) -> bytes:
        return b'{"id":"%b","state":"succeeded","result":%b}\n' % (job_id, result)

    def _full(self, job_id: bytes, result: bytes, batch: bytes, own: bytes) -> bytes | None:
        fields = orjson.loads(b'{"attempts":' + own)
        shared = self._batch_of(batch)
        created_ms, started_ms = fields.get("created_ms"), fields.get("started_ms")
        if shared is None or not (created_ms and started_ms and fields.keys() <= _OWN_FIELDS):
            return None
        path = self._path + job_id
        return (
            b'{"id":"%b",%b,"state":"succeeded","created_at":%b,"started_at":%b,%b,"attempts":%d,'
            b'%b,"result":%b,"links":{"self":"%b","result":"%b/result","events":"%b/events"}}\n'
        ) % (
            *(job_id, shared.model, self._moment(created_ms), self._moment(started_ms)),
            *(shared.finished_at, fields["attempts"], shared.about, result, path, path, path),
        )

    def _batch_of(self, text: bytes) -> _Batch | None:
        if text in self._batches:
            return self._batches[text]
        if len(self._batches) >= _BATCHES:
            self._batches.clear()
        found = self._batches[text] = self._parse(orjson.loads(b"{%b}" % text))
        return found

    def _parse(self, fields: dict[str, Any]) -> _Batch | None:
        about = {name: fields.pop(name, None) for name in _ABOUT_FIELDS}
        if "computed_by" in fields:
            about["computed_by"] = fields.pop("computed_by")
        lane, finished_ms = fields.pop("lane", None), fields.pop("finished_ms", None)
        if fields or finished_ms is None or None in about.values():
            return None
        return _Batch(
            b'"model":%b' % orjson.dumps(lane),
            b'"finished_at":%b' % self._moment(finished_ms),
            orjson.dumps(about)[1:-1],
        )

    def _moment(self, unix_ms: int) -> bytes:
        text = self._moments.get(unix_ms)
        if text is None:
            if len(self._moments) >= _BATCHES:
                self._moments.clear()
            text = orjson.dumps(moment(unix_ms), option=orjson.OPT_UTC_Z)
            self._moments[unix_ms] = text
        return text


_ABOUT_FIELDS = ("batch_size", "infer_ms", "worker", "version")


def minimal_json(record: JobRecord) -> bytes:
    """Of a job's view the id and the state, and its result or its error."""
    view: dict[str, Any] = {"id": record.id, "state": record.state}
    if record.result is not None:
        view["result"] = record.result
    if record.reason:
        view["error"] = {"reason": record.reason, "message": record.error or record.reason}
    return orjson.dumps(view)
