"""The server that stands for S3, as a process of its own: it keeps, counts, and does wrong when told."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from fakes import s3_stub
from robustness.installation import free_port


class _Process:
    """The stub as a process."""

    def __init__(self, folder: Path) -> None:
        self.objects = f"http://127.0.0.1:{free_port()}"
        self.control = f"http://127.0.0.1:{free_port()}"
        ports = [url.rpartition(":")[2] for url in (self.objects, self.control)]
        program = [sys.executable, s3_stub.__file__, "--port", ports[0], "--control-port", ports[1]]
        self.command = [*program, "--dir", str(folder), "--bucket", "b"]

    @contextmanager
    def running(self) -> Iterator[httpx2.Client]:
        process = subprocess.Popen(self.command)
        try:
            with httpx2.Client(trust_env=False, timeout=10) as client:
                end = time.monotonic() + 30
                while not self._answers(client):
                    assert process.poll() is None
                    assert time.monotonic() < end
                yield client
        finally:
            process.terminate()
            assert process.wait(10) == 0

    def _answers(self, client: httpx2.Client) -> bool:
        try:
            return client.get(f"{self.control}/state").status_code == 200
        except httpx2.TransportError:
            return False


def test_objects_outlive_the_process(tmp_path: Path) -> None:
    stub = _Process(tmp_path)
    with stub.running() as client:
        client.put(f"{stub.objects}/b/logs/a%20b", content=b"123").raise_for_status()
        client.put(f"{stub.objects}/b/logs/c", content=b"4").raise_for_status()
        client.delete(f"{stub.objects}/b/logs/c").raise_for_status()

    with stub.running() as client:
        found = client.get(f"{stub.objects}/b/logs/a%20b", headers={"Range": "bytes=1-"})
        told = client.get(f"{stub.control}/state").json()

    assert (found.status_code, found.content) == (206, b"23")
    assert found.headers["ETag"] == f'"{hashlib.md5(b"123").hexdigest()}"'
    assert told == {"calls": {"get": 1}, "keys": {"logs/a b": 3}, "uploads": {}}


def test_faults_are_told_and_healed_while_it_runs(tmp_path: Path) -> None:
    stub = _Process(tmp_path)
    with stub.running() as client:
        told = {"effect": "slow_down", "operations": ["put"], "keys": "logs/*", "times": 1}
        client.post(f"{stub.control}/faults", json=told).raise_for_status()
        answers = [client.put(f"{stub.objects}/b/{key}", content=b"1") for key in ("x", "logs/x", "logs/x")]
        client.post(f"{stub.control}/faults", json={"effect": "deny"}).raise_for_status()
        denied = client.get(f"{stub.objects}/b/x")
        client.delete(f"{stub.control}/faults").raise_for_status()
        healed = client.get(f"{stub.objects}/b/x")

    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert b"<Code>SlowDown</Code>" in answers[1].content
    assert (denied.status_code, healed.status_code) == (403, 200)


def test_a_body_that_is_not_what_its_headers_say_is_refused(tmp_path: Path) -> None:
    stub = _Process(tmp_path)
    wrong = {
        "Content-MD5": "ywrlBmzECPQrZ6qQ6fDkZw==",
        "x-amz-checksum-sha256": "pmWkWSBCL51Bfkhn79xPuKBKHz//H6B+mY6G9/eieuM=",
        "x-amz-content-sha256": "0" * 64,
    }
    with stub.running() as client:
        answers = {
            name: client.put(f"{stub.objects}/b/x", content=b"other", headers={name: value}).status_code
            for name, value in wrong.items()
        }
        kept = client.get(f"{stub.control}/state").json()["keys"]

    assert answers == dict.fromkeys(wrong, 400)
    assert kept == {}


@pytest.mark.parametrize("seconds", [-10, 60])
def test_a_signed_address_holds_for_its_time_and_alone(tmp_path: Path, seconds: int) -> None:
    stub = _Process(tmp_path)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signed = f"X-Amz-Date={now}&X-Amz-Expires={seconds}&X-Amz-Signature=any"
    with stub.running() as client:
        client.put(f"{stub.objects}/b/x", content=b"1").raise_for_status()

        alone = client.get(f"{stub.objects}/b/x?{signed}")
        doubly = client.get(f"{stub.objects}/b/x?{signed}", headers={"Authorization": "Bearer x"})

    assert alone.status_code == (200 if seconds > 0 else 403)
    assert doubly.status_code == 400
