"""Every Redis key, in one table.

| key                          | type   | what                                  | bound                  |
|------------------------------|--------|---------------------------------------|------------------------|
| `<lane>`, `<lane>\\x06\\x16<n>` | list   | waiting messages, one list per band   | max_backlog            |
| `lf:lane:<lane>:unacked`     | hash   | lease tag -> message that kombu can restore | jobs that workers hold |
| `lf:lane:<lane>:index`       | zset   | lease tag -> when it expires, seconds | the same               |
| `lf:lane:<lane>:delayed`     | zset   | band + message -> when it is due, ms  | max_backlog            |
| `lf:lane:<lane>:dead`        | zset   | job id -> when it was buried, ms      | dead_max_count         |
| `lf:lane:<lane>:letters`     | hash   | job id -> reason line + message       | dead_max_count         |
| `lf:lane:<lane>:pulse`       | string | when somebody last reaped, ms         | a day                  |
| `lf:lane:<lane>:stats`       | hash   | counters since the lane began         | fixed fields           |
| `lf:lane:<lane>:placed:<b>`  | hash   | tenant -> its messages in band b's list (b is 1 to 4) | tenants with jobs there |
| `lf:lane:<lane>:over`        | hash   | `<b>:<tenant>` -> its messages beside that list; `<b>:` -> all | the same |
| `lf:lane:<lane>:over:<b>:<tenant>` | list | the messages that `over` counts       | max_backlog            |
| `lf:lane:<lane>:tenants`     | hash   | tenant -> its jobs waiting or leased   | tenants with jobs there |
| `lf:tenants:in_flight`       | hash   | the same over all lanes               | tenants with jobs      |
| `lf:rate:<tenant>`           | string | when its bucket will be full, Unix ms | until then             |
| `lf:keys`                    | hash   | key id -> the record of an API key    | max 10,000 (api/tenants/api_keys.py) |
| `lf:keys:used`               | hash   | key id -> when it was last used, Unix seconds | the same       |
| `lf:limits`                  | hash   | tenant -> limits of its own           | max 10,000             |
| `lf:lane:<lane>:breaker`     | hash   | the model's circuit breakers: `state` (api/overload/breaker.py) and `probes` let through, `state:<tenant>` and `probes:<tenant>` | two fields, and two per tenant that fails |
| `lf:lane:<lane>:failures`    | hash   | tenant -> its jobs that failed in the model (lua/include/model_failures.lua) | 100 tenants; an hour |
| `lf:job:<id>`                | string | the record of a job that is not settled (lua/include/record.lua) | max_backlog |
| `celery-task-meta-<id>`      | string | the result, as Celery stores it, with the job's final state | result_ttl |
| `lf:blob:<id>`               | string | a large input, or the mark that it is in LANEFLEET_BLOB_URL (blobs.py); deleted with the job | its job |
| `lf:flight:<lane>:<digest>`  | string | the job that identical ones follow (lua/include/single_flight.lua) | 1 hour |
| `lf:followers:<id>`          | hash   | follower -> its message; of their leader | its job; 2,000 fields |
| `lf:lane:<lane>:followers`   | zset   | follower -> when it expires, ms       | max_backlog            |
| `lf:next:<id>`               | string | what the job leads to: Celery's callbacks, chain and chord | its job   |
| `lf:said:<id>`               | stream | what a generation has said: entries 1-0, 2-0, ... of field `d`, JSON | its tokens; stream_seconds |
| `lf:outbox`                  | stream | settled jobs that lead to something, until their successors are sent | those |
| `lf:outbox:failed`           | stream | entries whose successors could not be made | 10,000             |
| `lf:outbox:events`           | stream | settled jobs that webhooks tell of, until their deliveries are made | webhook_max_waiting |
| `lf:webhooks:<tenant>`       | hash   | endpoint id -> the endpoint (common/webhooks/endpoints.py) | webhook_max_endpoints |
| `lf:webhook-tenants`         | hash   | tenant (`-` without one) -> the ids of its endpoints | tenants with endpoints |
| `lf:delivery:<id>`           | hash   | one webhook on its way, and the log of its attempts | webhook_keep_seconds |
| `lf:deliveries:<tenant>`     | zset   | delivery id -> when it was made, ms   | webhook_list_max       |
| `lf:deliveries-dead:<tenant>` | zset  | dead delivery id -> when it was given up, ms | webhook_list_max |
| `lf:file:<id>`               | hash   | an uploaded file, or the results of a batch | file_ttl       |
| `lf:file-parts:<id>`         | list   | its parts in order: name in the store, bytes | the same      |
| `lf:file-list:<tenant>`      | zset   | file -> when it was made, ms          | tenant_files           |
| `lf:file-bytes:<tenant>`     | hash   | file -> its bytes                     | tenant_files           |
| `lf:file-expiry`             | zset   | file -> when it expires, ms           | all tenants' files     |
| `lf:file-sweep`              | string | who looks for expired files now       | blob_sweep_seconds     |
| `lf:batch:<id>`              | hash   | a batch (common/batches/records.py)   | file_ttl               |
| `lf:batch-list:<tenant>`     | zset   | batch -> when it was made, ms         | file_ttl               |
| `lf:batches`                 | zset   | unfinished batch -> when it was made, ms | tenant_batches, per tenant |
| `lf:batch-open:<tenant>`     | zset   | the same, of one tenant               | tenant_batches         |
| `lf:fingerprints`            | hash   | lane -> the model that serves it, and a digest of its weights | the catalog's names |
| `lf:cold-starts`             | hash   | lane -> seconds that worker and model took to start when last seen | the catalog's names |
| `lf:cache-epochs`            | hash   | model -> how often its cache was purged | the catalog's models |
| `lf:cache:<model>:<digest>`  | string | a result that may be used again; in the cache's Redis | cache_seconds |
| `lf:blob-sweep`              | string | who looks for inputs without a job now | blob_sweep_seconds    |
| `lf:lanes`                   | set    | lanes that a worker ever served       | the catalogs' names    |
| `lf:reconciler`              | string | who looks for jobs without a message now | 10 s                |
| `lf:idempotency:<tenant>:<h>` | string | the claim of an Idempotency-Key (h: its SHA-256): fingerprint, job id | idempotency_ttl |
| `lf:jobs:<tenant>`           | stream | the accepted jobs and their labels, for the job list (lua/include/job_index.lua) | list_max_count |
| `lf:jobs:<tenant>:count`     | string | the number of these since the first   | one number             |
| `lf:jobs:<tenant>:labels`    | string | that some of them have had labels     | one number             |
| `lf:labels:<id>`             | string | the labels of a job that was dead and is retried | 8 days      |
| `lf:aliases`                 | hash   | alias -> its model now, or shares     | the catalog's aliases  |
| `lf:worker:<name>`           | string | a live worker's report                | 15 s                   |
| `lf:format`                  | string | the version of this format (format_version.py) | one number       |
| `lf:probe`                   | string | written to learn whether Redis accepts writes | 60 s             |
| `lf:workers`                 | zset   | worker -> time of its last report, ms | a minute's workers     |

Channels: `celery-task-meta-<id>` (the result), `lf:canceled` (`<lane> <lease tag>`, to who runs it),
`lf:hurry` (a lane), `lf:control` (what operators ask), `lf:said:<id>` (each entry of that stream, as
`<number> <JSON>`). Redis' channels know no databases, so all but the first end in `:<database>`, in
any other than 0.

The band keys and the result key are Celery's own names, so that any Celery
client can produce and consume. A lane has its own `unacked` pair, so that a
foreign consumer with a shorter visibility timeout never sees this fleet's leases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

BAND_SEPARATOR = "\x06\x16"
BANDS: tuple[int, ...] = (0, 3, 6, 9)
"""Kombu's priority steps: 0 is served first."""

JOB_PREFIX = "lf:job:"
META_PREFIX = "celery-task-meta-"
BLOB_PREFIX = "lf:blob:"
WORKER_PREFIX = "lf:worker:"
LANE_PREFIX = "lf:lane:"
LANES = "lf:lanes"
RECONCILER = "lf:reconciler"
BLOB_SWEEP = "lf:blob-sweep"
FLIGHT_PREFIX = "lf:flight:"
FOLLOWERS_PREFIX = "lf:followers:"
NEXT_PREFIX = "lf:next:"
SAID_PREFIX = "lf:said:"
"""Of a stream, and of the channel on which its entries are told."""
OUTBOX = "lf:outbox"
OUTBOX_FAILED = "lf:outbox:failed"
EVENTS = "lf:outbox:events"
WEBHOOK_TENANTS = "lf:webhook-tenants"
WEBHOOKS_PREFIX = "lf:webhooks:"
DELIVERY_PREFIX = "lf:delivery:"
DELIVERIES_PREFIX = "lf:deliveries:"
DEAD_DELIVERIES_PREFIX = "lf:deliveries-dead:"
FILE_PREFIX = "lf:file:"
FILE_PARTS_PREFIX = "lf:file-parts:"
FILE_LIST_PREFIX = "lf:file-list:"
FILE_BYTES_PREFIX = "lf:file-bytes:"
FILE_EXPIRY = "lf:file-expiry"
FILE_SWEEP = "lf:file-sweep"
BATCH_PREFIX = "lf:batch:"
BATCH_LIST_PREFIX = "lf:batch-list:"
BATCH_OPEN_PREFIX = "lf:batch-open:"
BATCHES = "lf:batches"
RATE_PREFIX = "lf:rate:"
JOBS_PREFIX = "lf:jobs:"
LABELS_PREFIX = "lf:labels:"
IDEMPOTENCY_PREFIX = "lf:idempotency:"
TENANTS_IN_FLIGHT = "lf:tenants:in_flight"
NOTHING = "lf:none"
"""Never exists; a script that deletes it counts as having written."""
WORKER_TTL_SECONDS = 15
WORKERS = "lf:workers"
"""The names of live workers, and of some that ended within the last minute."""
PROBE = "lf:probe"
FORMAT = "lf:format"
FORMAT_VERSION = 1
"""Of the keys above, the records, the messages and the results. Raise it when a release writes
a form that the previous release cannot read (docs/durability.md describes the upgrade).
"""
ALIASES = "lf:aliases"
WEIGHTS_DIGESTS = "lf:fingerprints"
CACHE_EPOCHS = "lf:cache-epochs"
COLD_STARTS = "lf:cold-starts"
CACHE_PREFIX = "lf:cache:"
OVER_TOTALS = ("1:", "2:", "3:", "4:")
"""Fields of a lane's `over`: how many wait beside each band's list."""
STARVED_CHANNEL = "lf:hurry"
"""The enqueue script publishes the lanes in which a tenant without other jobs got one."""
API_KEYS = "lf:keys"
API_KEYS_USED = "lf:keys:used"
TENANT_LIMITS = "lf:limits"
CANCELED_CHANNEL = "lf:canceled"
"""The cancel script publishes a job's lane and lease tag."""
CONTROL_CHANNEL = "lf:control"
"""Operators' commands for the workers' models: `load minilm@2`, `aliases`."""


def scoped_channel(channel: str, database: int) -> str:
    """The channel of a fleet in this database; `keys.lua` names them alike."""
    return channel + channel_scope(database)


def channel_scope(database: int) -> str:
    """What the fleet's channels end in."""
    return f":{database}" if database else ""


def band_of(priority: int) -> int:
    """The band a Celery priority (0-9, 0 first) falls into."""
    return max(band for band in BANDS if band <= max(priority, 0))


@lru_cache(maxsize=4096)
def band_key(lane: str, priority: int = 0) -> str:
    """The list of the lane's waiting messages of this priority."""
    band = band_of(priority)
    return f"{lane}{BAND_SEPARATOR}{band}" if band else lane


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """The keys of one lane, in the order in which the scripts take them."""

    bands: tuple[str, ...]
    unacked: str
    index: str
    delayed: str
    dead: str
    letters: str
    stats: str
    followers: str
    """This and the next ones are not among the keys that every script takes."""
    over: str
    breaker: str
    tenants: str
    failures: str
    pulse: str

    @classmethod
    def of(cls, lane: str) -> LaneKeys:
        """Name the keys of this lane."""
        prefix = f"{LANE_PREFIX}{lane}:"
        return cls(
            bands=tuple(band_key(lane, band) for band in BANDS),
            unacked=f"{prefix}unacked",
            index=f"{prefix}index",
            delayed=f"{prefix}delayed",
            dead=f"{prefix}dead",
            letters=f"{prefix}letters",
            stats=f"{prefix}stats",
            followers=f"{prefix}followers",
            over=f"{prefix}over",
            breaker=f"{prefix}breaker",
            tenants=f"{prefix}tenants",
            failures=f"{prefix}failures",
            pulse=f"{prefix}pulse",
        )

    def as_list(self) -> list[str]:
        """Bands first, then unacked, index, delayed, dead, letters, stats; as scripts take them."""
        return [
            *self.bands,
            self.unacked,
            self.index,
            self.delayed,
            self.dead,
            self.letters,
            self.stats,
        ]


def job_key(job_id: str) -> str:
    """The job record."""
    return JOB_PREFIX + job_id


def meta_key(job_id: str) -> str:
    """The result, under Celery's own name; also its notification channel."""
    return META_PREFIX + job_id


def blob_key(job_id: str) -> str:
    """The job's large input."""
    return BLOB_PREFIX + job_id


def said_key(job_id: str) -> str:
    """What a generation has said so far; also its channel."""
    return SAID_PREFIX + job_id


def webhooks_key(tenant: str) -> str:
    """The tenant's endpoints of webhooks."""
    return WEBHOOKS_PREFIX + tenant


def delivery_key(delivery_id: str) -> str:
    """One webhook on its way."""
    return DELIVERY_PREFIX + delivery_id


def deliveries_key(tenant: str) -> str:
    """The index of a tenant's webhooks."""
    return DELIVERIES_PREFIX + tenant


def dead_deliveries_key(tenant: str) -> str:
    """The index of those that were given up."""
    return DEAD_DELIVERIES_PREFIX + tenant


def flight_name(lane: str, digest: str) -> str:
    """The name of the single-flight that identical jobs of one lane share."""
    return f"{lane}:{digest}"


def cache_key(model: str, digest: str) -> str:
    """A cached result."""
    return f"{CACHE_PREFIX}{model}:{digest}"


def idempotency_key(tenant: str, digest: str) -> str:
    """The claim of one tenant's Idempotency-Key, named by the key's digest."""
    return f"{IDEMPOTENCY_PREFIX}{tenant}:{digest}"


def worker_key(name: str) -> str:
    """The worker's report."""
    return WORKER_PREFIX + name
