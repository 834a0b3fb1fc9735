"""The metrics of a worker.

At most 32 series a lane and model version. So the waits in the queue and the runs are histograms
of four edges, and the other stages have a sum and a count.
"""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric

_NVML = "nvidia-ml-py and an NVIDIA device"
_PRICE = "LANEFLEET_DEVICE_HOUR_PRICE is set"


def _worker(
    name: str, kind: Kind, text: str, *labels: str, unit: str = "", when: str = ""
) -> Metric:
    return Metric(f"lanefleet_worker_{name}", kind, text, labels, unit, ("worker",), when)


# Workers: stages and batches, by lane.

QUEUE_WAIT = _worker(
    "queue_wait_seconds",
    "histogram",
    "Time from a job's acceptance until this worker reserved it; first attempts only.",
    "lane",
    unit="seconds",
)
INFERENCE_SECONDS = Metric(
    "inference_duration_seconds",
    "histogram",
    "Time of a batch on the device. The count is the number of batches.",
    ("lane", "model_version"),
    "seconds",
    ("worker",),
)
PREDICTIONS = Metric(
    "predictions_total",
    "counter",
    "Jobs with a result, by status: `success` or `error`.",
    ("lane", "model_version", "status"),
    "jobs",
    ("worker",),
)
CONFIDENCE = _worker(
    "confidence_ratio",
    "histogram",
    "First score of a classifier's results. The count is the number of results with one.",
    "lane",
    "model_version",
    unit="0 to 1",
    when="a lane of the task `classify` has results",
)
SHADOW_AGREEMENT = _worker(
    "shadow_agreement_ratio",
    "histogram",
    "How far the results of a lane's shadow agree with the published ones, a job each: equal first "
    "labels, shared boxes, or a cosine.",
    "lane",
    "shadow",
    unit="0 to 1",
    when="a model has a shadow",
)
SHADOW_JOBS = _worker(
    "shadow_jobs_total",
    "counter",
    "Jobs for a lane's shadow: `compared`, `failed` where it raised, or `dropped` because it was "
    "behind.",
    "lane",
    "shadow",
    "outcome",
    unit="jobs",
    when="a model has a shadow",
)
STAGE_SECONDS = _worker(
    "stage_seconds",
    "summary",
    "Time in the other stages. Of a job: `hold`, `decode`, `device_wait`; of a batch: `collate`, "
    "`encode`, `publish` (waiting for the finisher, and its script).",
    "lane",
    "stage",
    unit="seconds",
)
BATCH_SIZE = _worker("batch_size", "histogram", "Jobs in a batch, of all lanes.", unit="jobs")
BATCH_JOBS = _worker(
    "batch_jobs_total", "counter", "Jobs that ran in batches.", "lane", unit="jobs"
)
BATCH_ROOM = _worker(
    "batch_room_total",
    "counter",
    "Jobs that as many full batches would have held; jobs / room is the fill.",
    "lane",
    unit="jobs",
)
COST = _worker(
    "cost_total",
    "counter",
    "What ran, in the model's unit of cost: `own`, and `padded` to one length a batch.",
    "lane",
    "kind",
    unit="the model's",
)

# Workers: the process.

WORKER_JOBS = _worker("jobs_total", "counter", "Results published by this worker.", unit="jobs")
RESERVED = _worker("reserved_total", "counter", "Jobs reserved by this worker.", unit="jobs")
RENEWED = _worker("renewed_total", "counter", "Leases renewed by this worker.", unit="leases")
FENCED = _worker("fenced_total", "counter", "Results refused by the fence.", unit="jobs")
REAPED = _worker(
    "reaped_total",
    "counter",
    "Expired leases of any worker that this one returned to their lane.",
    unit="leases",
)
RETRIED = _worker(
    "retried_total", "counter", "Jobs that this worker put off, to try them again.", unit="jobs"
)
DEAD = _worker("dead_total", "counter", "Jobs that this worker put on the dead list.", unit="jobs")
IN_HAND = _worker("jobs_in_hand", "gauge", "Jobs leased by this worker.", unit="jobs")
SWITCHES = _worker(
    "lane_switches_total", "counter", "Times that the device went to another lane.", unit="switches"
)
CACHE_WRITES = _worker(
    "cache_writes_total",
    "counter",
    "Results written into the cache: `stored`, or `dropped`.",
    "outcome",
    unit="results",
)
EVENT_JOBS = _worker(
    "event_jobs_total",
    "counter",
    "Jobs by whether their Celery events were sent; above a set rate they are sampled.",
    "sent",
    unit="jobs",
)
OUTBOX_ENTRIES = _worker(
    "outbox_entries",
    "gauge",
    "Entries of the fleet's outbox, as this worker last read it: settled jobs whose successors "
    "are not sent yet.",
    unit="entries",
)
OUTBOX_FAILED = _worker(
    "outbox_failed_entries",
    "gauge",
    "Entries that failed again and again and were set aside.",
    unit="entries",
)
REDIS_SILENCE = _worker(
    "redis_silence_seconds", "gauge", "Time since Redis last answered.", unit="seconds"
)
RSS = _worker("rss_bytes", "gauge", "Resident memory of the worker process.", unit="bytes")
PREPARED = _worker(
    "prepared_inputs_total",
    "counter",
    "Inputs to models that share a preparation, by whether it was kept from another (`hit`).",
    "outcome",
    unit="inputs",
)
PREPARED_BYTES = _worker(
    "prepared_bytes", "gauge", "Decoded pictures and tokens that are kept.", unit="bytes"
)
GC_PAUSES = _worker(
    "gc_pause_seconds",
    "summary",
    "Pauses of the garbage collector over 5 ms: how many, and their time.",
    unit="seconds",
)
COLD_START = _worker(
    "cold_start_seconds",
    "gauge",
    "Time from the start of the process to its first result.",
    unit="seconds",
    when="a result was published",
)

# Workers: the device.

DEVICE_SECONDS = _worker(
    "device_seconds_total",
    "counter",
    "What the device did: `busy`, or idle for want of what the state says.",
    "state",
    unit="seconds",
)
DEVICE_BUSY = _worker(
    "device_busy_ratio", "gauge", "The device's busy share of the last 10 seconds.", unit="0 to 1"
)
DECODE_BESIDE = _worker(
    "decode_beside_seconds_total",
    "counter",
    "Time of decoding during which the device ran a batch.",
    unit="seconds",
)
DEVICE_UTILIZATION = _worker(
    "device_utilization_ratio",
    "gauge",
    "Share of time in which the device ran a kernel, as its driver measures it.",
    "device",
    unit="0 to 1",
    when=_NVML,
)
DEVICE_MEMORY_USED = _worker(
    "device_memory_used_bytes",
    "gauge",
    "Memory of the device in use, by whatever process.",
    "device",
    unit="bytes",
    when=_NVML,
)
DEVICE_MEMORY = _worker(
    "device_memory_bytes", "gauge", "Memory of the device.", "device", unit="bytes", when=_NVML
)
DEVICE_POWER = _worker(
    "device_power_watts",
    "gauge",
    "Power that the device draws.",
    "device",
    unit="watts",
    when=_NVML,
)

# Workers: tenants, and money.

TENANT_DEVICE_SECONDS = _worker(
    "tenant_device_seconds_total",
    "counter",
    "Device time by tenant; those beyond the busiest are `other`.",
    "tenant",
    unit="seconds",
    when="jobs of tenants ran",
)
TENANT_ITEMS = _worker(
    "tenant_items_total",
    "counter",
    "Jobs that ran, by tenant.",
    "tenant",
    unit="jobs",
    when="jobs of tenants ran",
)
TENANT_SPEND = _worker(
    "tenant_spend_total",
    "counter",
    "Price of the device time by tenant.",
    "tenant",
    unit="the price's currency",
    when=_PRICE,
)
HOUR_PRICE = _worker(
    "device_hour_price",
    "gauge",
    "The set price of an hour of the device.",
    unit="the price's currency",
    when=_PRICE,
)
INFERENCE_PRICE = _worker(
    "inference_price",
    "gauge",
    "Price of the busy device time per job, since the worker's start.",
    unit="the price's currency",
    when=_PRICE,
)
