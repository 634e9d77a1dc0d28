"""A small HTTP server that answers from a script: each connection gets the next answer, byte for byte.

It stands for a coordinator, and for the networks and proxies before it, on their worst days.
"""

import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer. With ``is_cut`` the connection is reset after the body instead of ended."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def json_answer(body: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer of JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json", **named})


def event_stream(*events: bytes, is_cut: bool = False) -> Answer:
    """Return an answer of Server-Sent Events."""
    return Answer(200, b"".join(events), {"Content-Type": "text/event-stream"}, is_cut)


def log_event(text: str, end: int) -> bytes:
    """Return the event of a run of a log's text that ends at offset ``end``."""
    return f"id: {end}\ndata: {json.dumps(text)}\n\n".encode()


class ScriptedServer(ThreadingHTTPServer):
    """Answers the requests to each path from that path's list, and the last of it for ever after."""

    daemon_threads = True

    def __init__(self, scripts: dict[str, Sequence[Answer]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Asked] = []
        self._scripts = {path: list(answers) for path, answers in scripts.items()}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_answer(self, asked: Asked) -> Answer:
        """Return the next answer of the script for the path that was asked."""
        with self._lock:
            self.asked.append(asked)
            script = self._scripts.get(asked.path.partition("?")[0], [Answer(404)])
            return script.pop(0) if len(script) > 1 else script[0]

    def asked_for(self, path: str) -> list[Asked]:
        """Return the requests to ``path`` so far."""
        return [asked for asked in self.asked if asked.path.partition("?")[0] == path]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.next_answer(Asked(self.command, self.path, headers, body))
        self.send_response(answer.status)
        for name, value in {"Connection": "close", **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()
        if answer.is_cut:
            # A reset loses what is on its way; what the client has read by now it keeps.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def scripted_server(scripts: dict[str, Sequence[Answer]]) -> Iterator[ScriptedServer]:
    """Serve the scripts on loopback."""
    with ScriptedServer(scripts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
