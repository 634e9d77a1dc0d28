"""A real git server on loopback: ``git http-backend`` behind HTTP, with bad manners on demand."""

import base64
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Manner = Literal["good", "hang", "trickle", "redirect", "garbage"]


def git(folder: Path, *arguments: str) -> str:
    """Run git for a test, with nobody's settings, and return what it said."""
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
            "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
            "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
        },
    ).stdout.strip()


def commit_files(repo: Path, files: dict[str, str | bytes], message: str = "change") -> str:
    """Write ``files`` into a work tree, commit them and return the commit's id."""
    for name, content in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(repo, "rev-parse", "HEAD")


@dataclass
class GitServer:
    """Serves the repository ``repo`` (a work tree with one commit) as ``url`` while it is entered.

    ``manner`` says how: hang and trickle begin when the pack is asked for, redirect leads to
    ``redirect_to``. ``requests`` are the paths asked for, ``authorizations`` the headers that came.
    """

    folder: Path
    user: str | None = None
    password: str = ""
    allow_any_sha: bool = True
    manner: Manner = "good"
    redirect_to: str = ""
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repo = self.folder / "repo"
        self.repo.mkdir(parents=True)
        git(self.repo, "init", "--quiet", "--initial-branch=main")
        self.head = commit_files(self.repo, {"README": "hello\n", "src/main.sh": "echo hello\n"}, "first")
        self.released = threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"git": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """``host:port``, as the list of allowed hosts takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/repo"

    @property
    def url_with_credential(self) -> str:
        return f"http://{self.user}:{self.password}@{self.address}/repo"


class _Handler(BaseHTTPRequestHandler):
    git: GitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: what came is in ``requests``."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.git
        server.requests.append(self.path)
        server.authorizations.append(self.headers.get("Authorization"))
        body = self._read_body()
        if server.user is not None and not self._is_authorized():
            self._say(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="git"'})
        elif server.manner == "redirect":
            self._say(HTTPStatus.FOUND, {"Location": server.redirect_to + self.path})
        elif server.manner == "garbage":
            self._say(HTTPStatus.OK, {"Content-Type": "text/html"}, b"\x1b]0;pwned\x07<html>sign in</html>")
        elif b"command=fetch" in body and server.manner in ("hang", "trickle"):
            self._be_slow()
        else:
            self._run_backend(body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_authorized(self) -> bool:
        wanted = base64.b64encode(f"{self.git.user}:{self.git.password}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {wanted}"

    def _be_slow(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-git-upload-pack-result")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            if self.git.manner == "trickle":
                self.wfile.write(b"000dpackfile\n")
                while not self.git.released.wait(0.02):
                    self.wfile.write(b"0006\x02.")  # progress, for ever
            self.git.released.wait()
        except OSError:
            return

    def _run_backend(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        settings = {
            "http.receivepack": "false",
            "uploadpack.allowAnySHA1InWant": str(self.git.allow_any_sha).lower(),
            "safe.directory": "*",
        }
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.git.folder),
            "GIT_PROJECT_ROOT": str(self.git.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": str(len(settings)),
            # Version 2 of the protocol hands out any commit, whatever the setting.
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self.git.allow_any_sha else "",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        program = shutil.which("git") or "git"
        answer = subprocess.run([program, "http-backend"], input=body, env=environment, capture_output=True)
        head, _, content = answer.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        self._say(status, headers, content)

    def _say(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True
