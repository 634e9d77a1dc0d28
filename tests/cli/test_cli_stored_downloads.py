"""Downloads that the coordinator sends elsewhere: by the address alone, whole or not at all."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from fakes.s3_faults import Effect, Fault, Operation
from fakes.s3_stub import S3Stub
from fakes.sse_server import Answer, ScriptedServer, json_answer, scripted_server
from reactorcide.cli.answers import ArtifactAnswer
from reactorcide.cli.client import ApiClient
from reactorcide.cli.discovery import Target
from reactorcide.cli.downloads import Download
from reactorcide.cli.errors import AnswerNotUnderstood, CommandFailed, StoreUnreachable

JOB_ID = "01890000-0000-7000-8000-000000000001"
ASKED = f"/api/v1/jobs/{JOB_ID}/artifacts/dist/app.bin"
DATA = bytes(range(256)) * 8_000
GETS = {Operation.GET}


@pytest.fixture
def store() -> Iterator[S3Stub]:
    """An object store that has the artifact."""
    with S3Stub() as made:
        httpx2.put(f"{made.url}/{made.bucket}/x/y", content=DATA, trust_env=False).raise_for_status()
        yield made


def sent_to(store: S3Stub, *, seconds: int = 60, key: str = "x/y") -> Answer:
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signed = f"X-Amz-Date={now}&X-Amz-Expires={seconds}&X-Amz-Signature=s3cr3t"
    return Answer(307, b"", {"Location": f"{store.url}/{store.bucket}/{key}?{signed}", "Content-Length": "0"})


def client_of(server: ScriptedServer) -> ApiClient:
    return ApiClient(Target(server.url, "--url", "rct_x", "the places"))


def download(answers: list[Answer], folder: Path) -> tuple[Path, list[int]]:
    """Fetch the artifact from a coordinator that answers so; return its path and the pieces that came."""
    sha256 = hashlib.sha256(DATA).hexdigest()
    artifact = ArtifactAnswer("dist/app.bin", len(DATA), sha256)
    pieces: list[int] = []
    with (
        scripted_server({ASKED: answers}) as server,
        client_of(server) as client,
        Download(client, JOB_ID, folder) as wanted,
    ):
        wanted.fetch(artifact, pieces.append)
    return folder / "dist/app.bin", pieces


def test_an_artifact_is_fetched_from_the_store_whole(store: S3Stub, tmp_path: Path) -> None:
    path, pieces = download([sent_to(store)], tmp_path)

    assert path.read_bytes() == DATA
    assert sum(pieces) == len(DATA)


def test_the_token_goes_to_the_coordinator_alone(tmp_path: Path) -> None:
    body = Answer(200, DATA, {"Content-Length": str(len(DATA))})
    with scripted_server({"/elsewhere": [body]}) as elsewhere:
        download([Answer(307, b"", {"Location": f"{elsewhere.url}/elsewhere?sig=1"})], tmp_path)

        (asked,) = elsewhere.asked

    assert "authorization" not in asked.headers
    assert asked.headers["accept-encoding"] == "identity"
    assert "rct_x" not in str(asked)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Effect.RESET_DOWNLOAD, GETS, times=2, amount=700_000),
        Fault(Effect.SLOW_DOWN, GETS, times=2),
        Fault(Effect.BREAK, GETS, times=1),
    ],
    ids=lambda fault: fault.effect,
)
def test_it_goes_on_where_the_store_broke_off(store: S3Stub, tmp_path: Path, fault: Fault) -> None:
    store.faults.add(fault)

    path, pieces = download([sent_to(store)], tmp_path)

    assert path.read_bytes() == DATA
    assert sum(pieces) == len(DATA)


def test_an_address_past_its_time_is_asked_for_anew(store: S3Stub, tmp_path: Path) -> None:
    path, _ = download([sent_to(store, seconds=-5), sent_to(store)], tmp_path)

    assert path.read_bytes() == DATA


def test_bytes_that_were_changed_in_the_store_are_not_kept(store: S3Stub, tmp_path: Path) -> None:
    httpx2.put(f"{store.url}/{store.bucket}/x/y", content=DATA[:-1] + b"?", trust_env=False)

    with pytest.raises(CommandFailed, match="digest"):
        download([sent_to(store)], tmp_path)

    assert not (tmp_path / "dist/app.bin").exists()


def test_more_bytes_than_there_should_be_are_not_taken(store: S3Stub, tmp_path: Path) -> None:
    httpx2.put(f"{store.url}/{store.bucket}/x/y", content=DATA * 3, trust_env=False)

    with pytest.raises(CommandFailed, match="more bytes"):
        download([sent_to(store)], tmp_path)

    assert list((tmp_path / "dist").iterdir()) == []


def test_what_the_store_has_lost_is_an_error_at_once(store: S3Stub, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="does not have it any more"):
        download([sent_to(store, key="none")], tmp_path)

    assert store.calls[Operation.GET] == 1


def test_a_refusal_says_where_and_why_but_not_the_address(store: S3Stub) -> None:
    store.faults.add(Fault(Effect.DENY, GETS))

    with (
        scripted_server({ASKED: [sent_to(store)]}) as server,
        client_of(server) as client,
        pytest.raises(StoreUnreachable) as refused,
    ):
        list(client.read_artifact(JOB_ID, "dist/app.bin"))

    assert refused.value.message.endswith("refuses it with status 403 (AccessDenied)")
    assert store.url.removeprefix("http://") in refused.value.message
    assert "s3cr3t" not in refused.value.message


def test_a_store_that_cannot_be_reached_is_an_error_that_names_the_setting(store: S3Stub) -> None:
    store.stop()

    with (
        scripted_server({ASKED: [sent_to(store)]}) as server,
        client_of(server) as client,
        pytest.raises(StoreUnreachable) as broken,
    ):
        list(client.read_artifact(JOB_ID, "dist/app.bin"))

    assert "OBJECT_STORE_REDIRECT" in (broken.value.hint or "")
    assert "s3cr3t" not in broken.value.message


@pytest.mark.parametrize(
    "location", [None, "", "/relative", "file:///etc/passwd", "ftp://h/x", "https:///x", "http://x:y/"]
)
def test_an_address_that_is_none_is_not_followed(location: str | None) -> None:
    headers = {} if location is None else {"Location": location}

    with (
        scripted_server({ASKED: [Answer(307, b"", headers)]}) as server,
        client_of(server) as client,
        pytest.raises(AnswerNotUnderstood),
    ):
        list(client.read_artifact(JOB_ID, "dist/app.bin"))


def test_a_store_that_sends_clients_in_a_circle_is_left(tmp_path: Path) -> None:
    with scripted_server({}) as elsewhere:
        circle = Answer(307, b"", {"Location": f"{elsewhere.url}/elsewhere", "Content-Length": "0"})
        elsewhere._scripts["/elsewhere"] = [circle]
        with (
            scripted_server({ASKED: [circle]}) as server,
            client_of(server) as client,
            pytest.raises(StoreUnreachable),
        ):
            list(client.read_artifact(JOB_ID, "dist/app.bin"))

        assert len(elsewhere.asked) < 10


def test_nothing_else_is_followed_elsewhere() -> None:
    with scripted_server({"/me": [json_answer({})]}) as elsewhere:
        sent = Answer(307, b"{}", {"Location": f"{elsewhere.url}/me"})
        with (
            scripted_server({"/api/v1/me": [sent]}) as server,
            client_of(server) as client,
            pytest.raises(AnswerNotUnderstood),
        ):
            client.me()

        assert elsewhere.asked == []
