"""The Corndogs server of the tests does wrong what it is told to, in its process or as one of its own."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.corndogs_control import give_order, obey, open_control
from fakes.corndogs_server import WHOLE, CorndogsServer
from fakes.csil_bytes import dump
from fakes.csil_line import BOUND, Line, connected, envelope, framed, opened

PROGRAM = Path(__file__).parent.parent / "fakes/corndogs_server.py"
CLAIM: dict[str, object] = {
    "queue": "ci",
    "current_state": "ready",
    "override_timeout": 0,
    "override_current_state": "",
    "override_auto_target_state": "",
}
CUT = (asyncio.IncompleteReadError, ConnectionError)


@pytest.fixture
async def server() -> AsyncIterator[CorndogsServer]:
    async with CorndogsServer() as running:
        yield running


@pytest.fixture
async def line(server: CorndogsServer) -> AsyncIterator[Line]:
    async with connected(server.port) as made:
        yield made


def submit(server: CorndogsServer, queue: str = "ci") -> str:
    return server.store.submit(queue, "ready", "busy", -1, b"hi", 0).uuid


async def claim(line: Line) -> dict[str, Any]:
    answer: dict[str, Any] = (await line.call("GetNextTask", **CLAIM))["payload"]
    return answer


async def states_seen(server: CorndogsServer) -> dict[str, int]:
    """Return the states of the queue as another client sees them."""
    async with connected(server.port) as other:
        answer = await other.call("GetTaskStateCounts", queue="ci")
    states: dict[str, int] = answer["payload"]["state_counts"]
    return states


# -- faults ----------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_refuses_connections_and_comes_back_with_its_tasks(
    server: CorndogsServer, line: Line
) -> None:
    submit(server)
    port = server.port

    await server.stop()
    assert await line.is_cut()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await server.start()

    assert server.port == port
    assert await states_seen(server) == {"ready": 1}


async def test_a_wiped_server_has_no_tasks(server: CorndogsServer, line: Line) -> None:
    live, ended = submit(server), submit(server)
    server.store.complete(ended)

    server.wipe()

    found = [
        (await line.call("GetTaskStateByID", uuid=uuid, queue="ci"))["payload"] for uuid in (live, ended)
    ]
    assert found == [{}, {}]
    assert await claim(line) == {}


async def test_a_delayed_call_is_answered_later_than_what_is_asked_after_it(
    server: CorndogsServer, line: Line
) -> None:
    server.faults.delays = {"GetQueues": 0.2}
    for number, operation in ((1, "GetQueues"), (2, "GetQueueTaskCounts"), (3, "$ping")):
        line.send(framed(envelope(operation, b"\xa0", id=number)))

    answers = [opened(await line.receive())["id"] for _ in range(3)]

    assert answers == [2, 3, 1]


async def test_all_calls_are_delayed_at_the_same_time(server: CorndogsServer, line: Line) -> None:
    server.faults.delay_seconds = 0.1
    for number in range(1000):
        line.send(framed(envelope("$ping", b"", id=number)))

    answers = {opened(await line.receive())["id"] for _ in range(1000)}

    assert answers == set(range(1000))


async def test_no_more_than_256_calls_of_a_connection_are_at_work(server: CorndogsServer, line: Line) -> None:
    server.faults.delay_seconds = 3600.0
    for number in range(300):
        line.send(framed(envelope("$ping", b"", id=number)))

    async with asyncio.timeout(BOUND):
        while server.frames < 256:
            await asyncio.sleep(0.01)
    server.faults.delays = {"GetTaskStateCounts": 0.0}
    await states_seen(server)

    assert server.frames == 257


async def test_a_silent_server_takes_calls_and_never_answers(server: CorndogsServer, line: Line) -> None:
    submit(server)
    server.faults.is_silent = True
    line.send(framed(envelope("GetNextTask", dump(CLAIM), id=1)))
    async with asyncio.timeout(BOUND):
        while not server.frames:
            await asyncio.sleep(0.01)

    server.faults.is_silent = False

    assert (await line.call("GetQueues"))["payload"]["queues"] == ["ci"]
    assert await states_seen(server) == {"ready": 1}


@pytest.mark.parametrize(("fault", "done"), [("lose_calls", "ready"), ("lose_replies", "busy")])
async def test_a_lost_call_is_not_done_and_a_lost_reply_is(
    server: CorndogsServer, fault: str, done: str
) -> None:
    submit(server)
    setattr(server.faults, fault, {"GetNextTask": 1})
    async with connected(server.port) as line:
        with pytest.raises(CUT):
            await claim(line)

    assert await states_seen(server) == {done: 1}
    assert server.calls["GetNextTask"] == 1
    async with connected(server.port) as line:
        assert bool(await claim(line)) == (done == "ready")


async def test_a_swallowed_reply_is_done_and_the_connection_goes_on(
    server: CorndogsServer, line: Line
) -> None:
    submit(server)
    server.faults.swallow_replies = {"GetNextTask": 1}
    line.send(framed(envelope("GetNextTask", dump(CLAIM), id=99)))

    answer = await line.call("GetTaskStateCounts", queue="ci")

    assert answer["id"] == 1
    assert answer["payload"]["state_counts"] == {"busy": 1}


async def test_a_refused_call_is_not_done_and_only_so_often(server: CorndogsServer, line: Line) -> None:
    submit(server)
    server.faults.refuse = {"GetNextTask": 2}

    statuses = [(await line.call("GetNextTask", **CLAIM))["status"] for _ in range(2)]

    assert statuses == [6, 6]
    assert "delivery" in await claim(line)


@pytest.mark.parametrize("leader", ["", "10.0.0.7:5080"])
async def test_who_does_not_lead_names_who_does_and_answers_reads(
    server: CorndogsServer, line: Line, leader: str
) -> None:
    uuid = submit(server)
    server.faults.leader = leader

    told = await line.call("GetNextTask", **CLAIM)
    found = await line.call("GetTaskStateByID", uuid=uuid, queue="ci")

    assert (told["status"], told["error"]) == (6, f"not-leader leader={leader}")
    assert found["payload"]["task"]["current_state"] == "ready"


async def test_copies_hand_one_task_to_so_many_claimers_of_its_queue_and_state(
    server: CorndogsServer, line: Line
) -> None:
    uuid = submit(server)
    submit(server, "other")
    server.faults.copies = 3

    first = await claim(line)
    other = (await line.call("GetNextTask", **CLAIM | {"queue": "other"}))["payload"]
    elsewhere = (await line.call("GetNextTask", **CLAIM | {"current_state": "later"}))["payload"]
    rest = [await claim(line) for _ in range(3)]

    assert first["delivery"]["task"]["uuid"] == uuid
    assert other["delivery"]["task"]["queue"] == "other"
    assert elsewhere == {}
    assert rest == [first, first, {}]


async def test_a_cut_frame_ends_in_its_middle_after_its_call_was_done(server: CorndogsServer) -> None:
    submit(server)
    server.faults.cut_frames = 1
    async with connected(server.port) as line:
        with pytest.raises(asyncio.IncompleteReadError) as cut:
            await claim(line)

    assert cut.value.partial
    assert await states_seen(server) == {"busy": 1}


async def test_an_operation_may_be_unknown(server: CorndogsServer, line: Line) -> None:
    server.faults.unknown = ("GetNextTaskGroup",)

    answer = await line.call("GetNextTaskGroup", **CLAIM)

    assert (answer["status"], answer["error"]) == (2, "unknown op: GetNextTaskGroup")


async def test_calls_are_counted_by_operation(server: CorndogsServer, line: Line) -> None:
    for operation in ("$ping", "GetQueues", "GetQueues", "Nope"):
        await line.call(operation)

    assert server.calls == {"$ping": 1, "GetQueues": 2, "Nope": 1}


# -- orders ----------------------------------------------------------------------------------------------


async def test_orders_come_at_a_port(server: CorndogsServer, line: Line) -> None:
    submit(server)
    await line.call("$ping")

    async with await open_control(server, 0) as control:
        port = control.sockets[0].getsockname()[1]
        calls = await asyncio.to_thread(give_order, port, delay_seconds=0.5, refuse={"SubmitTask": 2})
        await asyncio.to_thread(give_order, port, down=True, wipe=True)
        was_up = server.is_up
        await asyncio.to_thread(give_order, port, down=False)

    assert calls == {"$ping": 1}
    assert (server.faults.delay_seconds, server.faults.refuse) == (0.5, {"SubmitTask": 2})
    assert (was_up, server.is_up) == (False, True)
    assert not server.store.live


@pytest.mark.parametrize(
    "order",
    [
        b"",
        b"no JSON\n",
        b"[]\n",
        b'{"nope": 1, "wipe": true}\n',
        b'{"delay_seconds": "x"}\n',
        b'{"wipe": 3}\n',
        b'{"refuse": {"SubmitTask": "often"}}\n',
    ],
)
async def test_what_is_no_order_is_told_and_does_nothing(server: CorndogsServer, order: bytes) -> None:
    submit(server)

    answer = await obey(server, order)

    assert answer.startswith(b'{"error": ')
    assert server.store.live
    assert server.faults.delay_seconds == 0.0


def test_a_process_of_its_own_takes_orders_at_its_port_and_on_its_input(unused_port: int) -> None:
    with subprocess.Popen(
        [sys.executable, PROGRAM, "--port", "0", "--shape", WHOLE, "--control-port", str(unused_port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        asyncio.run(ask_once(int(address.rpartition(":")[2])))

        by_port = give_order(unused_port, delay_seconds=0.1)
        process.stdin.write(b'{"wipe": true}\n')
        process.stdin.flush()
        by_input = process.stdout.readline()
        process.terminate()

    assert address.startswith("tcp://127.0.0.1:")
    assert by_port == {"GetQueues": 1}
    assert by_input == b'{"GetQueues": 1}\n'


async def ask_once(port: int) -> None:
    async with connected(port) as line:
        assert (await line.call("GetQueues"))["status"] == 0


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
