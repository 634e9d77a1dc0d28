"""Following a log over a network that breaks."""

import itertools
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.sse_server import (
    Answer,
    ScriptedServer,
    event_stream,
    json_answer,
    log_event,
    scripted_server,
)
from reactorcide.cli.client import ApiClient
from reactorcide.cli.discovery import Target
from reactorcide.cli.errors import AnswerNotUnderstood, ApiProblem, CoordinatorUnreachable
from reactorcide.cli.follow import EventParser, LogPart, NewAttempt, follow_log, read_log
from reactorcide.cli.watch import Patience

JOB_ID = "01890000-0000-7000-8000-000000000001"
LOGS = f"/api/v1/jobs/{JOB_ID}/logs"
END = b'event: end\ndata: {"status":"completed"}\n\n'
NO_PATIENCE = timedelta(0)


def client_of(server: ScriptedServer) -> ApiClient:
    return ApiClient(Target(server.url, "--url", "rct_x", "--token-file"))


def followed(answers: Sequence[Answer]) -> tuple[bytes, list[str | None]]:
    """Return the log as followed, and the `Last-Event-ID` of each request."""
    with scripted_server({LOGS: answers}) as server, client_of(server) as client:
        data = b"".join(part.data for part in follow_log(client, JOB_ID) if isinstance(part, LogPart))
        return data, [asked.headers.get("last-event-id") for asked in server.asked]


def test_a_log_is_followed_to_its_end() -> None:
    data, _ = followed([event_stream(log_event("one\n", 4), b": idle\n\n", log_event("two\n", 8), END)])

    assert data == b"one\ntwo\n"


def test_crd_10_a_follower_goes_on_from_its_last_offset_after_a_restart() -> None:
    data, resumed = followed(
        [
            event_stream(log_event("one\n", 4)),
            Answer(503, b"", {"Retry-After": "0"}),
            event_stream(log_event("two\n", 8), b'id: 12\ndata: "thr', is_cut=True),
            event_stream(b": following\n\n", is_cut=True),
            event_stream(log_event("three\n", 14), END),
        ]
    )

    assert data == b"one\ntwo\nthree\n"
    assert resumed == [None, "4", "4", "8", "8"]


def test_every_byte_arrives_as_it_was() -> None:
    written = bytes(range(256)) + "é€😀\r\n\u2028".encode()
    text = written.decode(errors="surrogateescape")

    data, _ = followed([event_stream(log_event(text, len(written)), END)])

    assert data == written


def test_the_log_of_a_second_attempt_follows_the_first_and_is_resumed_in_itself() -> None:
    begun = b'event: attempt\nid: 2:0\ndata: {"attempt":2}\n\n'
    answers = [
        event_stream(log_event("first\n", 6), begun, is_cut=True),
        event_stream(b'id: 2:7\ndata: "second\\n"\n\n', is_cut=True),
        event_stream(END),
    ]
    with scripted_server({LOGS: answers}) as server, client_of(server) as client:
        told = list(follow_log(client, JOB_ID))

        assert told == [LogPart(b"first\n", 6), NewAttempt(2), LogPart(b"second\n", 7)]
        assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "2:0", "2:7"]


def test_the_tail_is_asked_for_on_the_first_connection_only() -> None:
    answers = [event_stream(log_event("nine\n", 99)), event_stream(log_event("ten\n", 103), END)]
    with scripted_server({LOGS: answers}) as server, client_of(server) as client:
        list(follow_log(client, JOB_ID, query=[("tail", "1")]))

        assert [asked.path for asked in server.asked] == [f"{LOGS}?tail=1", LOGS]


def test_patience_with_a_coordinator_that_stays_away_ends() -> None:
    with (
        scripted_server({LOGS: [Answer(502)]}) as server,
        client_of(server) as client,
        pytest.raises(CoordinatorUnreachable),
    ):
        list(follow_log(client, JOB_ID, patience=Patience(NO_PATIENCE)))


def test_a_foreign_job_is_told_at_once() -> None:
    problem = json_answer({"error": "forbidden", "message": "not yours"}, 403)
    with scripted_server({LOGS: [problem]}) as server, client_of(server) as client:
        with pytest.raises(ApiProblem) as caught:
            list(follow_log(client, JOB_ID))

        assert (caught.value.code, len(server.asked)) == ("forbidden", 1)


@pytest.mark.parametrize(
    "event",
    [
        b'data: "no id"\n\n',
        b"id: 3\ndata: not json\n\n",
        b"id: 3\ndata: {}\n\n",
        b'id: x:3\ndata: "x"\n\n',
        b'event: attempt\ndata: {"attempt":2}\n\n',
        b"event: attempt\nid: 2:0\ndata: []\n\n",
    ],
)
def test_a_stream_of_another_kind_is_refused(event: bytes) -> None:
    with pytest.raises(AnswerNotUnderstood):
        followed([event_stream(event)])


def test_a_stored_log_is_taken_up_where_the_connection_broke() -> None:
    whole = b"0123456789" * 1000
    answers = [
        Answer(200, whole[:4000], {"Content-Length": str(len(whole))}),
        Answer(206, whole[4000:], {"Content-Length": "6000"}),
    ]
    with scripted_server({LOGS: answers}) as server, client_of(server) as client:
        data = b"".join(read_log(client, JOB_ID))

        assert data == whole
        assert [asked.headers.get("range") for asked in server.asked] == [None, "bytes=4000-"]


def test_a_tail_that_broke_off_is_an_error_rather_than_a_gap() -> None:
    answers = [Answer(200, b"some", {"Content-Length": "100"})]
    with (
        scripted_server({LOGS: answers}) as server,
        client_of(server) as client,
        pytest.raises(CoordinatorUnreachable),
    ):
        list(read_log(client, JOB_ID, [("tail", "5")]))


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        yield data[start:end]


@given(
    st.lists(st.tuples(st.text("ab \u20ac", max_size=9), st.integers(0, 99)), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 10_000)),
)
def test_events_are_read_however_their_bytes_are_cut(
    events: list[tuple[str, int]], newline: str, cuts: list[int]
) -> None:
    lines = [f": c\nid: {number}\ndata: {text}\nretry: 1\n" for text, number in events]
    # What follows the last event shows that a pending line feed is not lost.
    stream = ("\n".join([*lines, ": end", ""])).replace("\n", newline).encode()
    parser = EventParser()

    read = [event for piece in pieces_of(stream, cuts) for event in parser.feed(piece)]

    assert [(event.data, int(event.event_id)) for event in read] == events


def test_an_event_without_end_does_not_fill_the_memory() -> None:
    parser = EventParser()

    def feed_64_mib() -> None:
        for _ in range(64):
            list(parser.feed(b"x" * 1024 * 1024))

    with pytest.raises(AnswerNotUnderstood, match="too large"):
        feed_64_mib()


def test_a_refused_connection_is_an_unreachable_coordinator() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = ApiClient(Target(f"http://127.0.0.1:{port}", "--url", None, "nowhere"))

    with client, pytest.raises(CoordinatorUnreachable, match="no coordinator answers"):
        client.me()
