"""Simulated time: for the database, for the event loop, and for whoever is given the clock.

Our SQL asks `now()` by its bare name and our tables have it as a default. In a database that was put
under a `SimulatedClock` that name is found in a schema that comes before PostgreSQL's own, and means
the simulation's time; so every lease, deadline, wait, age and order of rows goes by it, in the very
statements of the product, and no row has to be touched when time passes. A sequence holds the time, because
what is set there is seen by every connection at once. Ids that the database makes follow the seed likewise.
"""

import asyncio

import psycopg
from psycopg import sql

_EPOCH = "2030-01-01 00:00:00Z"
_SET_UP = f"""
    CREATE SCHEMA simulation;
    CREATE SEQUENCE simulation.microseconds MINVALUE 0;
    CREATE SEQUENCE simulation.ids MINVALUE 0;
    CREATE FUNCTION simulation.now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$ BEGIN
        RETURN timestamptz '{_EPOCH}'
            + pg_sequence_last_value('simulation.microseconds'::regclass) * interval '1 microsecond';
    END $$;
    CREATE FUNCTION simulation.gen_random_uuid() RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$ BEGIN
        RETURN md5(nextval('simulation.ids')::text)::uuid;
    END $$;
    DO $$ DECLARE d record; BEGIN
        FOR d IN SELECT adrelid::regclass AS owner, attname FROM pg_attrdef JOIN pg_attribute
                     ON attrelid = adrelid AND attnum = adnum WHERE pg_get_expr(adbin, adrelid) = 'now()'
        LOOP
            EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT simulation.now()', d.owner, d.attname);
        END LOOP;
    END $$;
"""
# Of few rows this takes a hundredth of the time that TRUNCATE takes.
_EMPTY = (
    "DELETE FROM jobs; DELETE FROM workers; DELETE FROM users; DELETE FROM idempotency; DELETE FROM outbox"
)
_EMPTY_WHOLLY = "TRUNCATE jobs, workers, users, idempotency, outbox CASCADE"
_EMPTIED_WHOLLY_EVERY = 300


class SimulatedClock:
    """The time of a simulation, in seconds since its begin; it stands still until it is told to go on."""

    def __init__(self, dsn: str) -> None:
        """Put the database at ``dsn``, which nobody is connected to yet, under this clock."""
        self._microseconds = 0
        self._told = -1
        self._restarts = 0
        self._line = psycopg.connect(dsn, autocommit=True)
        self._line.execute(_SET_UP.encode())
        name = sql.Identifier(self._line.info.dbname)
        path = sql.SQL("ALTER DATABASE {} SET search_path = simulation, pg_catalog, public")
        self._line.execute(path.format(name))
        self.restart()

    def __call__(self) -> float:
        return self._microseconds / 1_000_000

    @property
    def now(self) -> float:
        return self._microseconds / 1_000_000

    def restart(self, first_id: int = 0) -> None:
        """Empty the database and begin anew, with ids of the database counted from ``first_id``."""
        self._restarts += 1
        self._line.execute(_EMPTY if self._restarts % _EMPTIED_WHOLLY_EVERY else _EMPTY_WHOLLY)
        self._line.execute("SELECT setval('simulation.ids', %s)", [first_id])
        self._microseconds, self._told = 0, -1
        self.tell()

    def move_to(self, seconds: float) -> None:
        """Go on to ``seconds``, and at least by the smallest step: no two moments are the same."""
        self.turn_to(seconds)
        self.tell()

    def turn_to(self, seconds: float) -> None:
        """As `move_to`; the database learns of it by `tell`."""
        self._microseconds = max(self._microseconds + 1, round(seconds * 1_000_000))

    def pass_time(self, seconds: float) -> None:
        self.move_to(self.now + seconds)

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop whose time is this clock's: within one call, no timeout ever strikes."""
        clock = self

        class SimulatedLoop(asyncio.SelectorEventLoop):
            def time(self) -> float:
                return clock.now

        return SimulatedLoop()

    def close(self) -> None:
        self._line.close()

    def tell(self) -> None:
        """Let the database know what time it is."""
        if self._told != self._microseconds:
            self._line.execute("SELECT setval('simulation.microseconds', %s)", [self._microseconds])
            self._told = self._microseconds
