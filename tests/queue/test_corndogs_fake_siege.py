"""Nothing that is sent to the Corndogs server of the tests ends it, or surprises it."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from fakes.csil_bytes import Tagged, dump
from fakes.csil_line import BOUND, connected, envelope, framed

CLAIM: dict[str, object] = {
    "queue": "ci",
    "current_state": "ready",
    "override_timeout": 0,
    "override_current_state": "",
    "override_auto_target_state": "",
}
CUT = (asyncio.IncompleteReadError, ConnectionError)


@dataclass
class Siege:
    """A server in a loop of its own, for properties that are tried many times."""

    runner: asyncio.Runner
    server: CorndogsServer

    def send(self, *pieces: bytes) -> None:
        """Send bytes on a connection of their own, hang up, and have a call answered on another."""
        self.runner.run(self._send(pieces))

    async def _send(self, pieces: tuple[bytes, ...]) -> None:
        async with asyncio.timeout(BOUND):
            async with connected(self.server.port) as line:
                for piece in pieces:
                    line.send(piece)
                    await asyncio.sleep(0)
                line.send(framed(envelope("$ping", b"", id=77)))
                with contextlib.suppress(*CUT, TimeoutError):
                    async with asyncio.timeout(0.02):
                        while b"$pong" not in await line.receive():
                            pass
            async with connected(self.server.port) as other:
                assert (await other.call("GetQueues"))["status"] == 0
        assert not self.server.panics


@pytest.fixture(params=[SPLIT, WHOLE], scope="module")
def siege(request: pytest.FixtureRequest) -> Iterator[Siege]:
    with asyncio.Runner() as runner:
        server = CorndogsServer(shape=request.param)
        runner.run(server.start())
        yield Siege(runner, server)
        runner.run(server.stop())


VALUES = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WELL_FORMED = [
    envelope("SubmitTask", dump({"queue": "ci", "current_state": "", "payload": b"x" * 40}), id=1),
    envelope("GetNextTask", dump(CLAIM), id=2**63),
    envelope("$hello", b""),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_end_the_server(siege: Siege, pieces: list[bytes]) -> None:
    siege.send(*pieces)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_no_frames_end_the_server(siege: Siege, frames: list[bytes]) -> None:
    siege.send(*map(framed, frames))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WELL_FORMED), st.data())
def test_no_frame_cut_short_or_damaged_ends_the_server(
    siege: Siege, frame: bytes, data: st.DataObject
) -> None:
    cut = frame[: data.draw(st.integers(0, len(frame)))]
    place = data.draw(st.integers(0, len(frame) - 1))
    damaged = frame[:place] + bytes([data.draw(st.integers(0, 255))]) + frame[place + 1 :]

    siege.send(framed(cut), framed(damaged), framed(frame)[: place + 4])


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["SubmitTask", "GetNextTask", "GetNextTaskGroup", "UpdateTask", "CleanUpTimedOut", "$ping"]
    ),
    st.dictionaries(
        st.sampled_from(["queue", "queues", "current_state", "timeout", "payload", "uuid", "at_time"]), VALUES
    ),
    st.dictionaries(st.sampled_from(["v", "id", "op", "service", "auth", "payload"]), VALUES),
)
def test_no_values_in_the_wrong_place_end_the_server(
    siege: Siege, operation: str, fields: dict[str, object], changes: dict[str, object]
) -> None:
    siege.send(
        framed(envelope(operation, dump(fields))), framed(envelope(operation, dump(fields), **changes))
    )


def test_a_map_of_a_thousand_million_entries_is_only_malformed(siege: Siege) -> None:
    siege.send(framed(b"\xba\x3b\x9a\xca\x00"), framed(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x61v\x01"))


def test_a_task_under_a_task_is_only_malformed(siege: Siege) -> None:
    siege.send(framed(envelope("GetQueues", b"\xa0", payload=Tagged(24, Tagged(24, b"\xa0")))))
