"""`why` at the keyboard, and what `queues` and `workers` tell when something is off."""

import uuid

from cli_shell import Api, Keyboard

from reactorcide.domain.workers import WorkerIdentity, WorkerReport

pytest_plugins = ["cli_fixtures"]


async def register(api: Api, name: str, report: WorkerReport) -> None:
    identity = WorkerIdentity(name, str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "test")
    worker_id = (await api.attempts.register(identity, [])).worker_id
    await api.attempts.heartbeat(worker_id, [], report)


async def test_why_tells_a_sentence_and_to_programs_its_facts(api: Api, keys: Keyboard) -> None:
    job = (await keys.type("submit", "--json", "--command", "true")).json
    waiting = await keys.type("why", job["job_id"])
    await api.finish(await api.start_next(), exit_code=3)
    ended = await keys.type("why", job["job_id"], "--json")

    assert (waiting.code, waiting.stderr) == (0, "")
    assert waiting.stdout.startswith(b"queued for ")
    assert ended.json["why"].startswith("failed after ")
    assert ended.json["exit_code"] == 3


async def test_why_of_a_job_that_is_not_there_is_an_error(keys: Keyboard) -> None:
    done = await keys.type("why", "01890000-0000-7000-8000-000000000000")

    assert (done.code, done.stdout) == (69, b"")


async def test_queues_and_workers_show_full_disks_and_spools_where_there_are_any(
    api: Api, admin_keys: Keyboard
) -> None:
    await register(api, "w1", WorkerReport())
    calm = [await admin_keys.type(command) for command in ("queues", "workers")]
    await register(api, "w2", WorkerReport(has_room=False, spooled=3, spool_bytes=12_300))
    full = [await admin_keys.type(command) for command in ("queues", "workers")]

    assert not any(word in done.stdout for done in calm for word in (b"DISK", b"SPOOL", b"DRAINING"))
    assert full[0].stdout.splitlines()[0].split()[-2:] == [b"DISK", b"FULL"]
    assert full[0].stdout.split()[-1] == b"1"
    assert b"disk full  0/2    3 (12.3 kB)" in full[1].stdout
