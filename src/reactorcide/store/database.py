"""The way to PostgreSQL: two pools, transactions, and driver errors turned into ours."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import msgspec
import psycopg
import structlog
from psycopg import errors
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool

from reactorcide.domain.errors import Misconfigured, Unavailable

Row: TypeAlias = dict[str, Any]
Transaction: TypeAlias = psycopg.AsyncConnection[Row]
Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any] | None
T = TypeVar("T")

BEGIN_SECONDS = 1.2
"""A connection is had, and its transaction open, by then; or the database counts as out of reach."""
TRANSACTION_SECONDS = 4.5
"""A transaction that takes longer loses its connection: none of ours may be long, and whoever waits for it
is to have an answer within 5 seconds even if the database fell silent."""
_STATEMENT_MILLISECONDS = 4_000
_RETRIES = 3
_URGENT_SHARE = 5

_RETRYABLE = (errors.SerializationFailure, errors.DeadlockDetected)
_OUT_OF_REACH = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)

log = structlog.get_logger()


class Database:
    """One process's connections to PostgreSQL. Made by `open`.

    It need not be up: what asks for a transaction meanwhile gets `Unavailable` within two seconds, and the
    first transaction after its return goes through.
    """

    def __init__(self, dsn: str, *, size: int) -> None:
        self.dsn = dsn
        reserved = max(1, size // _URGENT_SHARE)
        self._usual = _make_pool(dsn, "usual", size - reserved)
        self._urgent = _make_pool(dsn, "urgent", reserved)
        self._chores: set[asyncio.Task[None]] = set()
        self._is_held = False

    @classmethod
    async def open(cls, dsn: str, *, size: int = 10) -> "Database":
        """Return a database at ``dsn`` that holds at most ``size`` connections, without waiting for it.

        Raises:
            Misconfigured: ``dsn`` cannot be read.
        """
        database = cls(dsn, size=size)
        await database._usual.open()
        await database._urgent.open()
        return database

    def hold(self) -> None:
        """Count as out of reach until `release`: the schema is not yet what the statements expect."""
        self._is_held = True

    def release(self) -> None:
        """End a `hold`."""
        self._is_held = False

    async def close(self) -> None:
        """Give up every connection; transactions under way lose theirs when they end."""
        await asyncio.gather(*self._chores)
        await self._usual.close()
        await self._urgent.close()

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[Transaction]:
        """Open a READ COMMITTED transaction: committed at the end of the block, undone by an exception.

        Ids come as `str`, times as aware UTC, JSON decoded. Statements and locks are given 4 seconds and
        the whole block 4.5. ``urgent`` draws on a reserved share, for what must pass when the rest is busy.

        Raises:
            Unavailable: the database is out of reach, too slow, or lost meanwhile. Raised at the end of
                the block it leaves open whether the transaction was committed.
        """
        try:
            async with self._transaction(self._urgent if urgent else self._usual) as tx:
                yield tx
        except _OUT_OF_REACH as error:
            raise Unavailable("database") from error

    async def run(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        """Return what ``work`` returns, run in a transaction of its own.

        It is run again, in a new transaction, at most three times after a deadlock or serialisation
        failure; so it must act through the transaction alone. Errors are those of `transaction`.
        """
        pool = self._urgent if urgent else self._usual
        try:
            for retry in range(_RETRIES):
                try:
                    async with self._transaction(pool) as tx:
                        return await work(tx)
                except _RETRYABLE as error:
                    log.info("transaction.retried", retry=retry + 1, sqlstate=error.sqlstate)
                    await asyncio.sleep(random.uniform(0.001, 0.02) * 2**retry)
            async with self._transaction(pool) as tx:
                return await work(tx)
        except _OUT_OF_REACH as error:
            raise Unavailable("database") from error

    async def read(self, statement: str, parameters: Parameters = None, *, urgent: bool = False) -> list[Row]:
        """Return the rows of one statement that only reads, in one round trip. Errors are `transaction`'s."""
        pool = self._urgent if urgent else self._usual
        try:
            tx, rows = await self._first(pool, statement, parameters)
        except _OUT_OF_REACH as error:
            raise Unavailable("database") from error
        await pool.putconn(tx)
        return rows

    @asynccontextmanager
    async def _transaction(self, pool: AsyncConnectionPool[Transaction]) -> AsyncIterator[Transaction]:
        tx, _ = await self._first(pool, "BEGIN ISOLATION LEVEL READ COMMITTED")
        watch = _cut_after(tx, TRANSACTION_SECONDS)
        try:
            yield tx
            if tx.info.transaction_status == TransactionStatus.INERROR:
                # COMMIT would answer without an error and undo everything.
                raise errors.InFailedSqlTransaction("an error in this transaction was passed over")
            await tx.commit()
        except BaseException:
            await _undo(tx)
            raise
        finally:
            watch.cancel()
            await pool.putconn(tx)

    async def _first(
        self, pool: AsyncConnectionPool[Transaction], statement: str, parameters: Parameters = None
    ) -> tuple[Transaction, list[Row]]:
        """Run a harmless ``statement`` on a connection that lives, passing over those that died in the pool.

        The caller owes the connection to the pool.
        """
        if self._is_held:
            raise Unavailable("database")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BEGIN_SECONDS
        while True:
            tx = await pool.getconn(timeout=deadline - loop.time())
            watch = _cut_after(tx, deadline - loop.time())
            try:
                cursor = await tx.execute(statement, parameters)
                return tx, await cursor.fetchall() if cursor.description else []
            except BaseException as error:
                await pool.putconn(tx)
                if not tx.broken or not isinstance(error, _OUT_OF_REACH):
                    raise
                self._replace_all(pool)
            finally:
                watch.cancel()

    def _replace_all(self, pool: AsyncConnectionPool[Transaction]) -> None:
        """Have every connection made anew, since where one died unused the others most likely did."""
        if not self._chores:
            chore = asyncio.create_task(pool.drain())
            self._chores.add(chore)
            chore.add_done_callback(self._chores.discard)


def check_dsn(dsn: str) -> dict[str, Any]:
    """Return the parts of ``dsn``.

    Raises:
        Misconfigured: it cannot be read; the text does not show it, for it may hold a password.
    """
    try:
        return conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise Misconfigured("DB_URI is not a PostgreSQL URI") from None


def _make_pool(dsn: str, name: str, size: int) -> AsyncConnectionPool[Transaction]:
    given = check_dsn(dsn)
    limits = f"-c statement_timeout={_STATEMENT_MILLISECONDS} -c lock_timeout={_STATEMENT_MILLISECONDS}"
    defaults = {"application_name": "reactorcide", "tcp_user_timeout": 5_000, "keepalives_idle": 30}
    return AsyncConnectionPool(
        dsn,
        connection_class=psycopg.AsyncConnection[Row],
        kwargs={name: value for name, value in defaults.items() if name not in given}
        | {
            "autocommit": True,
            "row_factory": dict_row,
            "context": _adapters(),
            "connect_timeout": 2,
            "options": f"{given.get('options') or ''} {limits} -c timezone=UTC".lstrip(),
        },
        name=name,
        min_size=1,
        max_size=size,
        open=False,
        # A pool that gave up tries again with the next request; its growing waits would outlast an outage.
        reconnect_timeout=1.5,
    )


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("uuid", TextLoader)
    set_json_loads(msgspec.json.decode, adapters)
    return adapters


def _cut_after(tx: Transaction, seconds: float) -> asyncio.TimerHandle:
    """Cut the line after ``seconds``, which ends even the wait for a server that went silent."""
    return asyncio.get_running_loop().call_later(seconds, _cut, tx)


def _cut(tx: Transaction) -> None:
    if tx.closed:
        return
    log.warning("database.connection_cut")
    with socket.socket(fileno=os.dup(tx.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


async def _undo(tx: Transaction) -> None:
    try:
        await tx.rollback()
    except psycopg.Error as error:
        # The server undoes what its lost client left; the pool sees that the connection is gone.
        log.info("transaction.lost", detail=str(error))
