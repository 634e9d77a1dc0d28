"""What the program counts and measures, for Prometheus; every label has a bounded set of values."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
MAX_LABEL_VALUES = 100
OTHER = "other"
_DURATIONS = tuple(float(2**power) for power in range(15))
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class QueueState(Protocol):
    """What is told of a queue at a scrape."""

    @property
    def name(self) -> str: ...
    @property
    def ready(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def live_workers(self) -> int: ...


class WorkerState(Protocol):
    """What is told of a worker at a scrape."""

    @property
    def name(self) -> str: ...
    @property
    def running(self) -> int: ...
    @property
    def is_live(self) -> bool: ...
    @property
    def disk_full(self) -> bool: ...
    @property
    def spooled(self) -> int: ...
    @property
    def spool_bytes(self) -> int: ...


class OutboxState(Protocol):
    """What is told at a scrape of the effects that are owed."""

    @property
    def entries(self) -> int: ...
    @property
    def oldest_seconds(self) -> float: ...


class Metrics:
    """The metrics of one process, in a registry of their own. Its methods are quick and never fail."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._queues = _BoundedLabel()
        self._workers = _BoundedLabel()
        self._endpoints = _BoundedLabel()
        self._declare_jobs()
        self._declare_queue()
        self._declare_logs()
        self._declare_state()
        self._declare_api()

    def _declare_jobs(self) -> None:
        self._submitted = self._counter("jobs_submitted", "Jobs submitted.", "queue", "source_type")
        self._processed = self._counter("jobs_processed", "Jobs ended.", "queue", "status", "worker_id")
        self._retries = self._counter("job_retries", "Jobs given back to their queue.", "queue", "worker_id")
        self._errors = self._counter(
            "job_errors", "Jobs that ended badly, by reason.", "queue", "error_type", "retryable"
        )
        self._duration = self._histogram(
            "job_duration_seconds", "From start to end.", _DURATIONS, "queue", "status"
        )
        self._queue_wait = self._histogram(
            "job_queue_wait_seconds", "From submission to start.", _FAST + _DURATIONS[7:], "queue"
        )
        self._claim_to_start = self._histogram(
            "job_claim_to_start_seconds", "From the last claim to its start.", _FAST, "queue"
        )
        self._leases_lost = self._counter(
            "leases_lost",
            "Leases that ended without word from their worker, by who found out.",
            "queue",
            "by",
        )

    def _declare_queue(self) -> None:
        self._task_submissions = self._counter(
            "corndogs_task_submissions", "Tickets published: ok, unknown or error.", "queue", "result"
        )
        self._task_polls = self._counter(
            "corndogs_task_polls", "Asking a queue for a ticket: task, empty or error.", "queue", "result"
        )

    def _declare_logs(self) -> None:
        self._log_bytes = self._counter("log_bytes", "Bytes of logs acknowledged.")
        self._removals = self._counter(
            "removals", "Jobs, logs, artifacts and orphan objects removed or lost.", "what", "why"
        )
        self._removed_bytes = self._counter("removed_bytes", "Bytes of what was removed.", "what", "why")
        self._store_seconds = self._histogram(
            "object_store_seconds", "Calls of the object store, to the first byte.", _FAST, "op", "outcome"
        )

    def _declare_state(self) -> None:
        self._depth = self._gauge("queue_depth", "Jobs of a queue at the scrape.", "queue", "status")
        self._workers_active = self._gauge("workers_active", "Live workers of a queue.", "queue")
        self._worker_jobs = self._gauge("worker_jobs_active", "Jobs a worker runs.", "worker_id")
        self._disk_full = self._gauge("worker_disk_full", "1: it reports no room for a job.", "worker_id")
        self._spooled = self._gauge(
            "worker_spooled_attempts", "Attempts in a worker's spool, running ones too.", "worker_id"
        )
        self._spool_bytes = self._gauge("worker_spool_bytes", "Bytes in a worker's spool.", "worker_id")
        self._outbox_entries = self._gauge("outbox_entries", "Effects that are owed.")
        self._outbox_oldest = self._gauge("outbox_oldest_seconds", "How long the oldest of them is owed.")

    def _declare_api(self) -> None:
        self._requests = self._counter(
            "api_requests", "Requests answered.", "method", "endpoint", "status_code"
        )
        self._request_seconds = self._histogram(
            "api_request_duration_seconds", "Until the answer's last byte.", _FAST, "method", "endpoint"
        )

    # What the services tell.

    def job_submitted(self, queue: str, source_type: str) -> None:
        """A submission was committed."""
        self._submitted.labels(self._queues.bound(queue), source_type).inc()

    def job_ended(
        self, queue: str, status: str, reason: str, worker: str | None, seconds: float | None
    ) -> None:
        """A job reached its end; ``seconds`` from its start, None if it never started."""
        name = self._queues.bound(queue)
        self._processed.labels(name, status, self._workers.bound(worker or "")).inc()
        if seconds is not None:
            self._duration.labels(name, status).observe(max(seconds, 0.0))
        if status in ("failed", "timeout"):
            self._errors.labels(name, reason, "false").inc()

    def job_retried(self, queue: str, worker: str | None, reason: str) -> None:
        """A job went back to its queue after a run."""
        name = self._queues.bound(queue)
        self._retries.labels(name, self._workers.bound(worker or "")).inc()
        self._errors.labels(name, reason, "true").inc()

    def job_waited(self, queue: str, waited_seconds: float) -> None:
        """A job that has ended by now had waited so long for its start."""
        self._queue_wait.labels(self._queues.bound(queue)).observe(max(waited_seconds, 0.0))

    def job_started(self, queue: str, claim_to_start_seconds: float) -> None:
        """A job that has ended by now had been started so long after its claim."""
        self._claim_to_start.labels(self._queues.bound(queue)).observe(max(claim_to_start_seconds, 0.0))

    def lease_lost(self, queue: str, by: str) -> None:
        """A lease ended without word from its worker; ``by``: `maintenance` or `register` found out."""
        self._leases_lost.labels(self._queues.bound(queue), by).inc()

    def task_submitted(self, queue: str, result: str) -> None:
        """A ticket was published, `ok`; or may have been, `unknown`; or was not, `error`."""
        self._task_submissions.labels(self._queues.bound(queue), result).inc()

    def task_polled(self, queue: str, result: str) -> None:
        """A queue was asked for a ticket and gave a `task`, was `empty`, or the call ended in an `error`."""
        self._task_polls.labels(self._queues.bound(queue), result).inc()

    def log_appended(self, size_bytes: int) -> None:
        """So many bytes of a log were acknowledged."""
        self._log_bytes.inc(size_bytes)

    def removed(self, what: str, why: str, count: int, size_bytes: int) -> None:
        """So many jobs, logs, artifacts of a job, or objects were removed; both labels as in the record."""
        self._removals.labels(what, why).inc(count)
        self._removed_bytes.labels(what, why).inc(size_bytes)

    def object_store_called(self, operation: str, outcome: str, seconds: float) -> None:
        """The object store answered."""
        self._store_seconds.labels(operation, outcome).observe(seconds)

    # What the API tells.

    def request_answered(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered; ``endpoint`` is the route's template."""
        name = self._endpoints.bound(endpoint)
        self._requests.labels(method, name, str(status)).inc()
        self._request_seconds.labels(method, name).observe(seconds)

    def render(
        self,
        queues: Iterable[QueueState] = (),
        workers: Iterable[WorkerState] = (),
        outbox: OutboxState | None = None,
    ) -> bytes:
        """Return everything in Prometheus's text form, with the state of these as given."""
        self._set_queues(queues)
        self._set_workers(workers)
        self._outbox_entries.set(outbox.entries if outbox else float("nan"))
        self._outbox_oldest.set(outbox.oldest_seconds if outbox else float("nan"))
        return generate_latest(self.registry)

    def _set_queues(self, queues: Iterable[QueueState]) -> None:
        self._depth.clear()
        self._workers_active.clear()
        for queue in queues:
            name = self._queues.bound(queue.name)
            # Several queues may share the label `other`.
            self._depth.labels(name, "ready").inc(queue.ready)
            self._depth.labels(name, "running").inc(queue.running)
            self._workers_active.labels(name).inc(queue.live_workers)

    def _set_workers(self, workers: Iterable[WorkerState]) -> None:
        gauges = (self._worker_jobs, self._disk_full, self._spooled, self._spool_bytes)
        for gauge in gauges:
            gauge.clear()
        for worker in workers:
            if worker.is_live:
                name = self._workers.bound(worker.name)
                told = (worker.running, int(worker.disk_full), worker.spooled, worker.spool_bytes)
                for gauge, value in zip(gauges, told, strict=True):
                    gauge.labels(name).inc(value)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"reactorcide_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"reactorcide_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"reactorcide_{name}", meaning, labels, buckets=buckets, registry=self.registry)


class _BoundedLabel:
    """Lets the first hundred values of a label through; the rest is `other`."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bound(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= MAX_LABEL_VALUES:
            return OTHER
        self._known.add(value)
        return value
