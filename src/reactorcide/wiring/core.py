"""The services on a database: what an API and a worker share, and the rounds of maintenance."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from reactorcide.config import Settings
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.retry import retry_delay
from reactorcide.domain.submission import SubmissionPolicy
from reactorcide.domain.workers import Timing
from reactorcide.objects.measured import measured
from reactorcide.objects.port import ObjectStore, SignsUrls
from reactorcide.objects.threads import StoreThreads
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.port import ReadyQueue
from reactorcide.services.accounts import AccountService
from reactorcide.services.artifacts import ArtifactService
from reactorcide.services.attempts import AttemptService
from reactorcide.services.jobs import JobService
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.maintenance import Maintenance
from reactorcide.services.new_ids import IdSource
from reactorcide.services.orphans import OrphanSearch
from reactorcide.services.overview import Overview
from reactorcide.services.private_files import keep_private_text
from reactorcide.services.recent_chunks import RecentChunks
from reactorcide.services.retention import Retention, RetentionRules
from reactorcide.services.slow_chore import SlowChore
from reactorcide.services.tally import JobTally
from reactorcide.services.trees import TreeLimits, TreeService
from reactorcide.services.vault import Vault, load_key
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.migrate import migrate, weak_settings
from reactorcide.wiring.host import submission_policy
from reactorcide.wiring.objects import OpenedObjects, log_pace, open_objects
from reactorcide.wiring.queues import Keeper, OpenedQueue, open_queue
from reactorcide.worker.cancelling import cancel_tasks

log = structlog.get_logger()

_DATABASE_RETRY = timedelta(seconds=0.2)
_DATABASE_RETRY_CEILING = timedelta(seconds=2)
_STOP_SECONDS = 5.0
"""Each part has so long to stop."""
DEFAULT_USER_FILE = "default-user-id"
TOKEN_FILE = "admin-token"  # noqa: S105 - the name of a file


@dataclass(frozen=True)
class Core:
    """The services and what they stand on: all that an API and a worker share."""

    settings: Settings
    dsn: str
    timing: Timing
    policy: SubmissionPolicy
    database: Database
    bell: Bell
    objects: ObjectStore
    object_calls: StoreThreads
    """Where services call ``objects``."""
    tidy_objects: Callable[[], None]
    accounts: AccountService
    jobs: JobService
    attempts: AttemptService
    logs: LogService
    log_reader: LogReader
    artifacts: ArtifactService
    trees: TreeService
    retention: Retention
    orphans: OrphanSearch
    overview: Overview
    queue: ReadyQueue
    queue_keepers: tuple[Keeper, ...]
    metrics: Metrics
    tally: JobTally


@asynccontextmanager
async def open_core(
    settings: Settings, dsn: str, *, objects_dir: Path, is_patient: bool = False
) -> AsyncIterator[Core]:
    """Bring the schema up to date and open the services on it.

    Args:
        is_patient: leave the schema to `prepare_database`; until then the database counts as out of reach.

    Raises:
        Misconfigured: an operator must change something first.
        Unavailable: the database is out of reach.
    """
    if not is_patient:
        await _bring_up_to_date(dsn)
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, size=settings.db_pool_size)
        stack.push_async_callback(_stop, database.close, "database")
        if is_patient:
            database.hold()
        bell = Bell(database)
        await bell.start()
        stack.push_async_callback(_stop, bell.stop, "bell")
        opened = await open_objects(settings, objects_dir, is_patient=is_patient)
        metrics = Metrics()
        opened_queue = open_queue(settings, database, bell, metrics)
        stack.push_async_callback(_stop, opened_queue.close, "queue")
        await opened_queue.check()
        core = _compose_core(
            settings, dsn, database, bell, opened=opened, opened_queue=opened_queue, metrics=metrics
        )
        stack.push_async_callback(_stop, core.object_calls.close, "object store")
        stack.push_async_callback(_stop, core.accounts.flush_last_used, "accounts")
        stack.push_async_callback(_stop, core.attempts.close, "dispatch")
        stack.push_async_callback(_stop, core.artifacts.close, "artifacts")
        stack.push_async_callback(_stop, core.trees.close, "trees")
        stack.push_async_callback(_stop, core.logs.close, "logs")
        stack.push_async_callback(_stop, core.retention.close, "retention")
        stack.push_async_callback(_stop, core.orphans.close, "orphans")
        yield core


async def prepare_database(core: Core) -> None:
    """Bring the schema up to date; from then on the database counts as within reach.

    Raises:
        Misconfigured: an operator must change something first.
        Unavailable: the database is out of reach.
    """
    await _bring_up_to_date(core.dsn)
    core.database.release()


async def keep_trying(prepare: Callable[[], Awaitable[None]]) -> None:
    """Prepare what needs the database as soon as that can be reached.

    Raises:
        Misconfigured: an operator must change something first.
    """
    tries = 0
    while True:
        try:
            await prepare()
        except Unavailable:
            tries += 1
            log.warning("database.awaited", tries=tries)
            delay = retry_delay(tries, base=_DATABASE_RETRY, ceiling=_DATABASE_RETRY_CEILING)
            await asyncio.sleep(delay.total_seconds())
        else:
            return


async def _bring_up_to_date(dsn: str) -> None:
    await migrate(dsn)
    if weak := await weak_settings(dsn):
        # Somebody's choice, and no fault of a job: told, and gone on with.
        log.warning("database.not_durable", settings_off=weak)


@asynccontextmanager
async def maintaining(core: Core) -> AsyncIterator[None]:
    """Keep the maintenance rounds going: lost leases, deadlines, unsent entries, seals, purges."""

    async def tidy_objects() -> None:
        await core.object_calls.run(core.tidy_objects)

    # With a slow store they take long where much was removed, and lost leases must not wait for that.
    purges = (SlowChore(core.logs.purge_due), SlowChore(core.trees.purge_due))
    chores = (
        *(core.logs.seal_due, core.accounts.flush_last_used, tidy_objects, core.trees.sweep),
        *purges,
        *(core.retention.round_due, core.orphans.search_due),
    )
    maintenance = Maintenance(core.database, core.bell, core.queue, core.timing, chores, tally=core.tally)
    tasks = {asyncio.create_task(run()) for run in (maintenance.run, *core.queue_keepers)}
    try:
        yield
    finally:
        await cancel_tasks(tasks)
        for purge in purges:
            await _stop(purge.close, "purge")


async def ensure_admin(core: Core, *, make_one: bool) -> str | None:
    """Make the bootstrap admin and its first token if the user is absent; return a new token's id.

    Without DEFAULT_USER_ID nothing is made, unless ``make_one``: then an id is made once and kept in
    the data directory. The token's text goes to an owner-only file there and nowhere else.
    """
    settings = core.settings
    user_id = settings.default_user_id
    if user_id is None and make_one:
        user_id = await asyncio.to_thread(
            keep_private_text, settings.data_dir / DEFAULT_USER_FILE, IdSource().new_id()
        )
    if user_id is None:
        return None
    return await core.accounts.bootstrap_admin(user_id, settings.data_dir / TOKEN_FILE)


def _compose_core(
    settings: Settings,
    dsn: str,
    database: Database,
    bell: Bell,
    *,
    opened: OpenedObjects,
    opened_queue: OpenedQueue,
    metrics: Metrics,
) -> Core:
    timing = Timing(
        lease=settings.lease,
        heartbeat=settings.heartbeat,
        start_deadline=settings.start_deadline,
        lost_after=settings.lost_after,
        reap_interval=settings.reap_interval,
        cancel_grace=settings.cancel_grace,
    )
    policy = submission_policy(settings)
    vault = Vault(load_key(settings.encryption_key, settings.data_dir))
    queue = opened_queue.queue
    pace, recent_chunks = log_pace(settings), RecentChunks()
    objects, calls = measured(opened.store, metrics.object_store_called), StoreThreads()
    tally = JobTally(database, metrics)
    return Core(
        settings=settings,
        dsn=dsn,
        timing=timing,
        database=database,
        bell=bell,
        objects=objects,
        object_calls=calls,
        tidy_objects=opened.tidy,
        accounts=AccountService(database),
        jobs=JobService(database, queue, bell, vault, policy, tally=tally, heartbeat=timing.heartbeat),
        policy=policy,
        attempts=AttemptService(
            database, queue, bell, vault, timing, tally=tally, public_url=settings.public_url
        ),
        logs=LogService(
            database, objects, bell, metrics=metrics, pace=pace, recent=recent_chunks, calls=calls
        ),
        log_reader=LogReader(database, objects, bell, pace=pace, recent=recent_chunks, calls=calls),
        artifacts=ArtifactService(
            database,
            objects,
            bell,
            limit_bytes=settings.artifact_limit_bytes,
            signer=_choose_signer(settings, objects),
            calls=calls,
        ),
        trees=TreeService(
            database,
            objects,
            limits=TreeLimits(settings.tree_limit_bytes, settings.tree_user_limit_bytes),
            kept_for=settings.tree_retention,
            calls=calls,
        ),
        retention=Retention(database, objects, _retention_rules(settings), metrics=metrics, calls=calls),
        orphans=OrphanSearch(
            database,
            objects,
            every=settings.orphan_interval,
            is_dry_run=settings.retention_dry_run,
            metrics=metrics,
            calls=calls,
        ),
        overview=Overview(database, heartbeat=timing.heartbeat, tickets=opened_queue.counter),
        queue=queue,
        queue_keepers=opened_queue.keepers,
        metrics=metrics,
        tally=tally,
    )


def _choose_signer(settings: Settings, objects: ObjectStore) -> SignsUrls | None:
    """Return who signs the addresses that clients are sent to; None: everything goes through here."""
    if not settings.object_store_redirect:
        return None
    if isinstance(objects, SignsUrls):
        return objects
    log.warning("object_store.not_redirected", object_store_type=settings.object_store_type)
    return None


def _retention_rules(settings: Settings) -> RetentionRules:
    """Return what is kept, and for how long."""
    return RetentionRules(
        jobs=settings.job_retention,
        logs=settings.log_retention,
        log_bytes=settings.log_retention_bytes,
        artifacts=settings.artifact_retention,
        artifact_bytes=settings.artifact_retention_bytes,
        removals=settings.removal_retention,
        interval=settings.retention_interval,
        is_dry_run=settings.retention_dry_run,
    )


async def _stop(stop: Callable[[], Awaitable[object]], part: str) -> None:
    """Stop a part, bounded and without letting its trouble keep the others from stopping."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await stop()
    except Exception as error:  # noqa: BLE001 - the way out must be walked to its end
        log.warning("part.stopped_badly", part=part, error=str(error) or type(error).__name__)
