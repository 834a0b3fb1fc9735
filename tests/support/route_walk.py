"""Requests to every operation of an OpenAPI document, each as large as it may be.

Valid ones come first for each operation, then those whose words are as long as a head allows. The
thorough form has larger bodies, and each oddity with each operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

JSON = "application/json"
LONG = "a,:{[" * 4_200
"""54,600 characters in an address, most of a head."""
_COMMAS = "a,b{c["
_MANY, _MOST = 500_000, 5_000_000
"""3 MB of them, and 30, nearly what a body may have."""
_NESTED = b'{"a:":' * 90 + b"1" + b"}" * 90
_TWINS = ("/v1/classify", "/v1/detect")
"""Served as /v1/embed is, so that they are asked by the thorough form only."""
_VERBS = ("get", "post", "put", "delete")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    name: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = JSON


def requests_of(
    document: Mapping[str, Any], places: Mapping[str, str], ids: Sequence[str], *, thorough: bool
) -> Iterator[Asked]:
    """`places` are the values of path parameters; `ids` those of jobs."""
    commas = _COMMAS * (_MOST if thorough else _MANY)
    for path, item in document["paths"].items():
        for verb in _VERBS:
            if verb not in item or (path in _TWINS and not thorough):
                continue
            operation, method = item[verb], verb.upper()
            name, address = f"{method} {path}", path.format_map(places)
            queries = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
            bodies = (
                list(_bodies(path, ids, commas)) if "requestBody" in operation else [(JSON, b"")]
            )
            for content_type, body in bodies:
                yield Asked(name, method, address, {}, body, content_type)
            body_type, body = bodies[0]
            for query in _queries(queries):
                yield Asked(name, method, address, query, body, body_type)
            if not thorough:
                continue
            if "{" in path:
                long = path.format_map({key: quote(LONG[:9_000]) for key in places})
                yield Asked(f"{name} of a long name", method, long, {}, body, body_type)
            junk = {f"f{number}": LONG[:10] for number in range(1_000)}
            yield Asked(f"{name} with fields", method, address, junk, body, body_type)


def _queries(parameters: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    largest = {
        one["name"]: str(min(one["schema"]["maximum"], 1_000))
        for one in parameters
        if "maximum" in one["schema"]
    }
    if largest:
        yield largest
    for one in parameters:
        yield {**largest, one["name"]: "0.1" if one["name"] == "wait" else LONG}


def _bodies(path: str, ids: Sequence[str], commas: str) -> Iterator[tuple[str, bytes]]:
    jobs = [{"model": "echo", "input": number} for number in range(1_000)]
    job: dict[str, Any] = {"model": "echo", "input": 1, "params": {}}
    if path.endswith("/bulk"):
        yield "application/x-ndjson", b"\n".join(map(orjson.dumps, jobs))
        yield "application/x-ndjson", orjson.dumps({**job, "input": commas})
        return
    if path.endswith(("/results", "/retry", "/purge")):
        yield JSON, orjson.dumps({"ids": [*ids, "x" * 500]})
        yield JSON, orjson.dumps({"ids": ["x:" * 250] * len(ids)})
    elif path.endswith("/alias"):
        yield JSON, orjson.dumps({"model": LONG})
    else:
        yield JSON, orjson.dumps(job)
        yield JSON, orjson.dumps({"model": "text-detect", "input": ["AAAA"] * 2_000})
        params = b",".join(b'"p%d":%b' % (number, _NESTED) for number in range(900))
        yield JSON, b'{"model":"echo","input":1,"params":{%b}}' % params
        form = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        yield (
            "multipart/form-data; boundary=x",
            form % (b"model", b"", b"echo")
            + form % (b"params", b"", b"{%b}" % params)
            + form % (b"file", b'; filename="a"', b"text")
            + b"--x--\r\n",
        )
    yield JSON, orjson.dumps({**job, "input": commas})
    yield JSON, orjson.dumps({**job, "ids": [commas]})
