"""The server: slow clients, early answers, shutdown, and what it logs."""

import asyncio
import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import httpx2
import pytest
import structlog
from api_people import Api, Person, running_api

from fixture_types import MakeUser
from reactorcide.api.server import ApiServer
from reactorcide.domain.errors import Misconfigured
from reactorcide.observability.logging import configure_logging
from reactorcide.store.database import Database

pytest_plugins = ["api_fixtures"]

HEAD_TIMEOUT = timedelta(seconds=2)


@pytest.fixture
def own_log() -> Iterator[io.StringIO]:
    """What the program logs, as JSON lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    configure_logging("debug", "json", out)
    yield out
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


async def test_api_26_slow_heads_are_closed_and_hurt_nobody(database: Database, make_user: MakeUser) -> None:
    async with running_api(database, make_user, head_timeout=HEAD_TIMEOUT) as api:
        address = httpx2.URL(api.url)
        slow = [await asyncio.open_connection(address.host, address.port) for _ in range(200)]
        begun = time.perf_counter()
        dripping = [asyncio.create_task(_drip(*connection)) for connection in slow]

        seconds = []
        while time.perf_counter() - begun < 1:
            asked = time.perf_counter()
            assert (await api.http.get("/healthz")).status_code == 200
            seconds.append(time.perf_counter() - asked)
        await asyncio.wait_for(asyncio.gather(*dripping), 10)

        assert time.perf_counter() - begun < HEAD_TIMEOUT.total_seconds() + 3
        assert sorted(seconds)[int(len(seconds) * 0.99)] < 0.5


async def test_a_connection_that_is_used_stays_open(database: Database, make_user: MakeUser) -> None:
    async with running_api(database, make_user, head_timeout=timedelta(seconds=0.5)) as api:
        address = httpx2.URL(api.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        for _ in range(3):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            # Longer than a head may take: the time between two requests is another one.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.7)
        writer.close()


async def test_a_body_that_never_ends_after_its_answer_is_cut_off(
    database: Database, make_user: MakeUser
) -> None:
    async with running_api(database, make_user, head_timeout=timedelta(seconds=0.5)) as api:
        address = httpx2.URL(api.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")

        answer = await asyncio.wait_for(reader.read(), 5)

        assert answer.startswith(b"HTTP/1.1 401")
        writer.close()


async def test_the_url_names_the_port_that_was_found(api: Api) -> None:
    assert api.url.startswith("http://127.0.0.1:")
    assert int(api.url.rpartition(":")[2]) > 0


async def test_a_port_in_use_is_told(api: Api) -> None:
    port = int(api.url.rpartition(":")[2])
    app = api.server._app

    with pytest.raises(Misconfigured, match=str(port)):
        await ApiServer(app, port=port).start()


async def test_after_the_stop_nobody_listens(api: Api) -> None:
    await api.server.stop()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), 1).close()


async def test_every_request_has_one_line_in_the_log_and_no_token_has_any(
    own_log: io.StringIO, api: Api, person: Person
) -> None:
    job = await person.submit(job_secrets={"A": "hunter2hunter2"})
    await person.get(f"/api/v1/jobs/{job['job_id']}?token={person.token}", headers={"X-Request-Id": "mine"})
    await api.http.get("/nothing", headers={"Authorization": f"Basic {person.token}"})

    text = own_log.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if line["event"] == "request.answered"]

    assert [(line["method"], line["route"], line["status"]) for line in told] == [
        ("POST", "/api/v1/jobs", 201),
        ("GET", "/api/v1/jobs/{job_id}", 400),
        ("GET", "(none)", 404),
    ]
    assert told[0]["user_id"] == person.user_id
    assert told[1]["request_id"] == "mine"
    assert all(line["seconds"] >= 0 for line in told)
    assert person.token not in text
    assert "hunter2" not in text


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte of a head now and then, until the other side closes."""
    writer.write(b"GET / HTTP/1.1\r\nX")
    try:
        while True:
            writer.write(b"x")
            try:
                if await asyncio.wait_for(reader.read(1), 0.3) == b"":
                    return
            except TimeoutError:
                continue
    except ConnectionError:
        return
    finally:
        writer.close()
