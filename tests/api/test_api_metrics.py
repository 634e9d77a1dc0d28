"""What /metrics tells, after the product has done it."""

import uuid

from api_people import TIMING, Api, Person

from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.objects.measured import MeasuredStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.logs import LogService
from reactorcide.store import outbox
from reactorcide.store.bell import Bell

pytest_plugins = ["api_fixtures"]

QUEUE = 'queue="reactorcide-jobs"'


async def scrape(admin: Person) -> dict[str, float]:
    """Return every sample by its name and labels."""
    text = (await admin.get("/metrics")).text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {
        name.removeprefix("reactorcide_"): float(value)
        for name, _, value in (x.rpartition(" ") for x in lines)
    }


async def register(api: Api, name: str, boot_id: str | None = None) -> str:
    identity = WorkerIdentity(name, boot_id or str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "test")
    return (await api.attempts.register(identity, [])).worker_id


async def test_the_state_of_workers_is_told_by_name(api: Api, admin: Person) -> None:
    worker_id = await register(api, "w1")
    await admin.submit()
    [claim] = await api.attempts.claim(worker_id, 1, TIMING.heartbeat)
    await api.attempts.start(claim)
    report = WorkerReport(has_room=False, spooled=3, spool_bytes=12_300)
    await api.attempts.heartbeat(worker_id, [claim], report)

    told = await scrape(admin)

    assert told[f"workers_active{{{QUEUE}}}"] == 1
    assert told['worker_jobs_active{worker_id="w1"}'] == 1
    assert told['worker_disk_full{worker_id="w1"}'] == 1
    assert told['worker_spooled_attempts{worker_id="w1"}'] == 3
    assert told['worker_spool_bytes{worker_id="w1"}'] == 12_300
    assert told[f'queue_depth{{{QUEUE},status="running"}}'] == 1


async def test_a_lease_lost_to_a_new_process_of_the_worker_is_counted(api: Api, admin: Person) -> None:
    worker_id = await register(api, "w1")
    await admin.submit()
    [claim] = await api.attempts.claim(worker_id, 1, TIMING.heartbeat)
    await api.attempts.start(claim)
    await register(api, "w1")

    assert (await scrape(admin))[f'leases_lost_total{{by="register",{QUEUE}}}'] == 1


async def test_the_time_from_claim_to_start_is_told_of_jobs_that_have_ended(api: Api, admin: Person) -> None:
    await admin.submit()
    await api.finish(await api.start_next())
    await api.tally.settle()

    told = await scrape(admin)

    assert told[f"job_claim_to_start_seconds_count{{{QUEUE}}}"] == 1
    assert 0 < told[f"job_claim_to_start_seconds_sum{{{QUEUE}}}"] < 60


async def test_owed_effects_are_told_with_the_age_of_the_oldest(api: Api, admin: Person) -> None:
    calm = await scrape(admin)
    async with api.database.transaction() as tx:
        await outbox.add_entry(tx, outbox.PURGE_OBJECTS, "purge:1", {"job_id": "1"})
        await outbox.add_entry(tx, outbox.PURGE_OBJECTS, "purge:2", {"job_id": "2"})
        await tx.execute("UPDATE outbox SET created_at = now() - interval '1 hour' WHERE dedupe = 'purge:1'")
    # A try postpones an effect, and makes it no younger.
    async with api.database.transaction() as tx:
        [first, _] = await outbox.take_due(tx, outbox.PURGE_OBJECTS)
    owed = await scrape(admin)
    async with api.database.transaction() as tx:
        await outbox.mark_done(tx, first.entry_id)
    told = await scrape(admin)

    assert (calm["outbox_entries"], calm["outbox_oldest_seconds"]) == (0, 0)
    assert owed["outbox_entries"] == 2
    assert 3_600 <= owed["outbox_oldest_seconds"] < 3_700
    assert told["outbox_entries"] == 1


async def test_acknowledged_bytes_and_calls_of_the_object_store_are_counted(api: Api, admin: Person) -> None:
    metrics = api.services.metrics
    objects = MeasuredStore(MemoryObjectStore(), metrics.object_store_called)
    logs = LogService(api.database, objects, Bell(api.database), metrics=metrics)
    await admin.submit()
    api.log_service = logs
    started = await api.start_next()
    for _ in range(2):
        # Told twice, stored and counted once.
        await api.write_log(started, b"x" * 1_000)

    told = await scrape(admin)

    assert told["log_bytes_total"] == 1_000
    assert told['object_store_seconds_count{op="put",outcome="ok"}'] >= 1
