"""A server that speaks S3, and GCS through `GcsShim`; it runs in a process of its own and fails if told to.

``PUT /-/faults`` takes a list of `Fault`; each request that fits one meets it, as often as it says.
"""

import json
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from fakes.gcs_shim import Application, Environ, GcsShim, StartResponse

READY_SECONDS = 60


@dataclass
class Fault:
    """What happens to requests of ``method`` whose path and query contain ``part``.

    With a ``status`` they get that answer, and the server behind never sees them; with ``is_late`` it has
    done by then what was asked of it. ``garbles`` stores other bytes than were sent. ``forges_etag``
    answers with an ETag that says nothing. ``ignores_conditions`` does what was to be done in a case only.
    """

    method: str
    part: str = ""
    times: int = 1
    status: int = 0
    code: str = ""
    is_late: bool = False
    garbles: bool = False
    forges_etag: bool = False
    ignores_conditions: bool = False

    def fits(self, environ: Environ) -> bool:
        """Tell whether a request is to meet this, and count it."""
        target = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if self.times <= 0 or environ["REQUEST_METHOD"] != self.method or self.part not in target:
            return False
        self.times -= 1
        return True


class FaultyServer:
    """A WSGI application in front of another one, which meets its requests with faults."""

    def __init__(self, server: Application) -> None:
        self._server = server
        self._faults: list[Fault] = []
        self._seen: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/-/faults":
            told = json.loads(_body(environ))
            with self._lock:
                self._faults, self._seen = [Fault(**each) for each in told], []
            return _answer(start_response, 200, b"")
        if path == "/-/requests":
            with self._lock:
                return _answer(start_response, 200, json.dumps(self._seen).encode())
        with self._lock:
            self._seen.append(f"{environ['REQUEST_METHOD']} {path}?{environ.get('QUERY_STRING', '')}")
            fault = next((fault for fault in self._faults if fault.fits(environ)), None)
            if "HTTP_IF_NONE_MATCH" in environ:
                # The server looks first and stores then, which is two steps.
                return list(self._meet(fault, environ, start_response))
        return self._meet(fault, environ, start_response)

    def _meet(self, fault: Fault | None, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if fault is None:
            return self._server(environ, start_response)
        if fault.garbles:
            sent = _body(environ)
            environ["wsgi.input"] = BytesIO(b"#" * len(sent))
        if fault.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if fault.status:
            if fault.is_late:
                list(self._server(environ, lambda *_: lambda _: None))
            text = f"<Error><Code>{fault.code}</Code><Message>as it was told</Message></Error>"
            return _answer(start_response, fault.status, text.encode() if fault.code else b"<html></html>")

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if fault.forges_etag:
                headers = [(name, '"forged"' if name.lower() == "etag" else value) for name, value in headers]
            return start_response(status, headers, *rest)

        return self._server(environ, start)


def _body(environ: Environ) -> bytes:
    sent: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return sent


def _answer(start_response: StartResponse, status: int, body: bytes) -> list[bytes]:
    start_response(
        f"{status} told", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]
    )
    return [body]


class S3Server:
    """The server's process. S3 is at ``s3_url``, GCS at ``gcs_url``; both have the same buckets."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.s3_url = self.gcs_url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fakes.s3_server"],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.s3_url, self.gcs_url = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def make_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        self._ask("PUT", f"/{name}")
        return name

    def meet(self, *faults: Fault) -> None:
        """Have the requests to come meet these faults and no others; forget what was asked so far."""
        self._ask("PUT", "/-/faults", json.dumps([asdict(fault) for fault in faults]).encode())

    def requests(self) -> list[str]:
        """Return what was asked since the last `meet`: method, path and query of each request."""
        seen: list[str] = json.loads(self._ask("GET", "/-/requests"))
        return seen

    def count_parts_left(self, bucket: str) -> int:
        """Return how many uploads in parts are neither completed nor aborted."""
        return self._ask("GET", f"/{bucket}?uploads").count(b"<Upload>")

    def _ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.s3_url}{target}", body, method=method)
        with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
            read: bytes = answer.read()
            return read


def _serve() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    faulty = FaultyServer(DomainDispatcherApplication(create_backend_app))
    servers = [
        make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
        for application in (faulty, GcsShim(faulty))
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever).start()
    sys.stdout.write(json.dumps([f"http://127.0.0.1:{server.server_port}" for server in servers]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
