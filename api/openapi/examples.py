"""One shell example per route, for the OpenAPI document.

In one table, so that none is missing: a test runs every one of them as printed, against a
running fleet, and fails for a route that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

__all__ = ("EXAMPLES", "install")

_JSON = "-H 'Content-Type: application/json'"
_NEW_JOB = f"""\
job=$(curl -s localhost:8000/v1/jobs {_JSON} \\
  -d '{{"model": "echo", "input": "hello"}}' | grep -o '[0-9a-f-]\\{{36\\}}' | head -1)
"""
_NEW_FILE = """\
printf '{"custom_id": "%s", "method": "POST", "url": "/v1/jobs", "body": %s}\\n' \\
  a '{"model": "echo", "input": 1}' b '{"model": "echo", "input": 2}' > /tmp/requests.jsonl
file=$(curl -s localhost:8000/v1/files -F purpose=batch -F file=@/tmp/requests.jsonl |
  grep -o 'file-[0-9a-f]*' | head -1)
"""
_NEW_BATCH = (
    _NEW_FILE
    + f"""\
batch=$(curl -s localhost:8000/v1/batches {_JSON} \\
  -d '{{"input_file_id": "'$file'", "endpoint": "/v1/jobs", "completion_window": "24h"}}' |
  grep -o 'batch_[0-9a-f]*' | head -1)
"""
)
_DEAD_JOB = f"""\
job=$(curl -s localhost:8000/v1/jobs {_JSON} -H 'Prefer: wait=30' \\
  -d '{{"model": "echo", "input": "hello", "params": {{"fail": "on purpose"}}}}' \\
  | grep -o '[0-9a-f-]\\{{36\\}}' | head -1)
"""

_NEW_WEBHOOK = f"""\
webhook=$(curl -s localhost:8000/v1/webhooks {_JSON} \\
  -d '{{"url": "https://example.com/hooks", "events": []}}' \\
  | grep -o 'ep_[0-9a-f]*' | head -1)
"""
_DELIVERY = (
    _NEW_WEBHOOK
    + """\
curl -s -X POST localhost:8000/v1/webhooks/$webhook/ping
until delivery=$(curl -s "localhost:8000/v1/webhooks/deliveries?endpoint=$webhook" \\
  | grep -o 'msg_[0-9a-f]*' | head -1) && test -n "$delivery"; do sleep 0.2; done
"""
)

EXAMPLES: Mapping[str, str] = {
    "POST /v1/jobs": f"""\
curl -s localhost:8000/v1/jobs {_JSON} -H 'Prefer: wait=30' \\
  -d '{{"model": "minilm", "input": "The quick brown fox."}}'

curl -s localhost:8000/v1/jobs -H 'Prefer: wait=30' \\
  -F model=text-detect -F file=@deploy/demo/astronaut.png
""",
    "GET /v1/jobs/{job_id}": _NEW_JOB + "curl -s localhost:8000/v1/jobs/$job?wait=30\n",
    "POST /v1/jobs/{job_id}/cancel": _NEW_JOB
    + "curl -s -X POST localhost:8000/v1/jobs/$job/cancel\n",
    "POST /v1/jobs/{job_id}/retry": _DEAD_JOB
    + "curl -s -X POST localhost:8000/v1/jobs/$job/retry\n",
    "GET /v1/jobs/{job_id}/result": _NEW_JOB
    + "curl -s localhost:8000/v1/jobs/$job/result?wait=30\n",
    "GET /v1/jobs/{job_id}/events": _NEW_JOB + "curl -sN localhost:8000/v1/jobs/$job/events\n",
    "GET /v1/jobs": "curl -s 'localhost:8000/v1/jobs?limit=10'\n",
    "POST /v1/jobs/cancel": f"""\
curl -s localhost:8000/v1/jobs/cancel {_JSON} -d '{{"filter": {{"labels": {{"run": "42"}}}}}}'
""",
    "POST /v1/jobs/retry": f"""\
curl -s localhost:8000/v1/jobs/retry {_JSON} \\
  -d '{{"filter": {{"labels": {{"run": "42"}}}}, "dry_run": true}}'
""",
    "POST /v1/jobs/bulk": """\
printf '{"model": "echo", "input": %s}\\n' 1 2 3 |
  curl -s localhost:8000/v1/jobs/bulk -H 'Content-Type: application/x-ndjson' --data-binary @-
""",
    "POST /v1/jobs/results": _NEW_JOB
    + f"""\
curl -s localhost:8000/v1/jobs/results {_JSON} -H 'Prefer: wait=30' \\
  -d '{{"ids": ["'$job'"]}}'
""",
    "POST /v1/embed": f"""\
curl -s localhost:8000/v1/embed {_JSON} \\
  -d '{{"input": ["A cat on a mat.", "A dog on a log."]}}'
""",
    "POST /v1/classify": """\
curl -s localhost:8000/v1/classify -F file=@deploy/demo/rocket.jpg -F 'params={"top_k": 3}'
""",
    "POST /v1/detect": """\
curl -s localhost:8000/v1/detect -H 'Content-Type: image/png' --data-binary @deploy/demo/sign.png
""",
    "POST /v1/embeddings": f"""\
curl -s localhost:8000/v1/embeddings {_JSON} \\
  -d '{{"model": "minilm", "input": "The quick brown fox."}}'
""",
    "POST /v1/generate": f"""\
curl -s localhost:8000/v1/generate {_JSON} -d '{{"text": "The river runs", "max_length": 20}}'

curl -sN localhost:8000/v1/generate {_JSON} \\
  -d '{{"text": "The river runs", "max_length": 20, "stream": true}}'
""",
    "POST /v1/batch-generate": f"""\
curl -s localhost:8000/v1/batch-generate {_JSON} \\
  -d '{{"requests": [{{"text": "The river", "max_length": 5}}, {{"text": "A lamp", "seed": 7}}]}}'
""",
    "POST /v1/completions": f"""\
curl -s localhost:8000/v1/completions {_JSON} \\
  -d '{{"model": "smollm2", "prompt": "The river runs", "max_tokens": 20}}'
""",
    "POST /v1/chat/completions": f"""\
curl -sN localhost:8000/v1/chat/completions {_JSON} \\
  -d '{{"model": "smollm2", "stream": true, "max_tokens": 20,
       "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
""",
    "POST /v1/files": _NEW_FILE,
    "GET /v1/files": "curl -s 'localhost:8000/v1/files?limit=10'\n",
    "GET /v1/files/{file_id}": _NEW_FILE + "curl -s localhost:8000/v1/files/$file\n",
    "GET /v1/files/{file_id}/content": _NEW_FILE
    + "curl -s localhost:8000/v1/files/$file/content\n",
    "DELETE /v1/files/{file_id}": _NEW_FILE + "curl -s -X DELETE localhost:8000/v1/files/$file\n",
    "POST /v1/batches": _NEW_BATCH,
    "GET /v1/batches": "curl -s 'localhost:8000/v1/batches?limit=10'\n",
    "GET /v1/batches/{batch_id}": _NEW_BATCH + "curl -s localhost:8000/v1/batches/$batch\n",
    "POST /v1/batches/{batch_id}/cancel": _NEW_BATCH.replace(
        '"input": 2', '"input": 2, "params": {"sleep_ms": 3000}'
    )
    + "curl -s -X POST localhost:8000/v1/batches/$batch/cancel\n",
    "GET /v1/models": "curl -s localhost:8000/v1/models\n",
    "GET /v1/models/{name}": "curl -s localhost:8000/v1/models/minilm\n",
    "POST /v1/models/{name}/{action}": "curl -s -X POST localhost:8000/v1/models/minilm/warm\n",
    "DELETE /v1/models/{name}/cache": "curl -s -X DELETE localhost:8000/v1/models/minilm/cache\n",
    "PUT /v1/models/{name}/alias": f"""\
# With `aliases: {{sentences: minilm}}` in the catalog.
curl -s -X PUT localhost:8000/v1/models/sentences/alias {_JSON} -d '{{"model": "minilm"}}'
""",
    "GET /v1/lanes": """\
curl -s localhost:8000/v1/lanes
curl -s 'localhost:8000/v1/lanes?lane=minilm&lane=echo'
""",
    "POST /v1/lanes/{name}/drop": "curl -s -X POST localhost:8000/v1/lanes/gone/drop\n",
    "POST /v1/lanes/{name}/breaker/reset": (
        "curl -s -X POST localhost:8000/v1/lanes/minilm/breaker/reset\n"
    ),
    "GET /v1/workers": "curl -s localhost:8000/v1/workers\n",
    "GET /v1/system": "curl -s localhost:8000/v1/system\n",
    "GET /v1/outbox": "curl -s localhost:8000/v1/outbox\n",
    "POST /v1/outbox/retry": f"curl -s localhost:8000/v1/outbox/retry {_JSON} -d '{{}}'\n",
    "POST /v1/outbox/drop": f"curl -s localhost:8000/v1/outbox/drop {_JSON} -d '{{}}'\n",
    "GET /v1/dead/{lane}": "curl -s 'localhost:8000/v1/dead/echo?limit=10'\n",
    "GET /v1/dead/{lane}/{job_id}": _DEAD_JOB + "curl -s localhost:8000/v1/dead/echo/$job\n",
    "POST /v1/dead/{lane}/retry": _DEAD_JOB
    + f"""\
curl -s localhost:8000/v1/dead/echo/retry {_JSON} -d '{{"ids": ["'$job'"]}}'
""",
    "POST /v1/dead/{lane}/purge": _DEAD_JOB
    + f"""\
curl -s localhost:8000/v1/dead/echo/purge {_JSON} -d '{{"ids": ["'$job'"]}}'
""",
    "POST /v1/webhooks": f"""\
curl -s localhost:8000/v1/webhooks {_JSON} \\
  -d '{{"url": "https://example.com/hooks", "events": ["job.failed", "job.dead"]}}'
""",
    "GET /v1/webhooks": "curl -s localhost:8000/v1/webhooks\n",
    "GET /v1/webhooks/{endpoint_id}": _NEW_WEBHOOK
    + "curl -s localhost:8000/v1/webhooks/$webhook\n",
    "PATCH /v1/webhooks/{endpoint_id}": _NEW_WEBHOOK
    + f"""\
curl -s -X PATCH localhost:8000/v1/webhooks/$webhook {_JSON} -d '{{"enabled": false}}'
""",
    "DELETE /v1/webhooks/{endpoint_id}": _NEW_WEBHOOK
    + "curl -s -X DELETE localhost:8000/v1/webhooks/$webhook\n",
    "POST /v1/webhooks/{endpoint_id}/rotate": _NEW_WEBHOOK
    + f"curl -s localhost:8000/v1/webhooks/$webhook/rotate {_JSON} -d '{{}}'\n",
    "POST /v1/webhooks/secret": f"curl -s localhost:8000/v1/webhooks/secret {_JSON} -d '{{}}'\n",
    "POST /v1/webhooks/{endpoint_id}/ping": _NEW_WEBHOOK
    + "curl -s -X POST localhost:8000/v1/webhooks/$webhook/ping\n",
    "GET /v1/webhooks/deliveries": "curl -s 'localhost:8000/v1/webhooks/deliveries?state=dead'\n",
    "GET /v1/webhooks/deliveries/{delivery_id}": _DELIVERY
    + "curl -s localhost:8000/v1/webhooks/deliveries/$delivery\n",
    "POST /v1/webhooks/deliveries/replay": f"""\
curl -s localhost:8000/v1/webhooks/deliveries/replay {_JSON} -d '{{"state": "dead"}}'
""",
    "GET /health": "curl -s localhost:8000/health\n",
    "GET /ready": "curl -s localhost:8000/ready\n",
}


def install(app: FastAPI) -> None:
    """Show each route's example at the end of its description, and as `x-codeSamples`."""
    bare = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_examples(bare())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _with_examples(document: dict[str, Any]) -> dict[str, Any]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            example = EXAMPLES.get(f"{method.upper()} {path}")
            if example is not None:
                said = operation.get("description", "")
                operation["description"] = f"{said}\n\n```sh\n{example}```".strip()
                operation["x-codeSamples"] = [{"lang": "Shell", "source": example}]
    return document
