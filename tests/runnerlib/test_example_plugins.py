"""The plugins that are shipped as examples, each taken as it is into a folder and used by real attempts."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from attempt_runs import Attempt, Attempts
from runnerlib.spec import HostPolicy, Resources

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


class Folder:
    """An operator's folder with examples in it."""

    def __init__(self, path: Path, attempts: Attempts) -> None:
        self.path = path
        self._attempts = attempts
        path.mkdir(mode=0o755)

    def take(self, name: str, settings: str | None = None) -> None:
        shutil.copyfile(EXAMPLES / f"plugin_{name}.py", self.path / f"plugin_{name}.py")
        (self.path / f"plugin_{name}.py").chmod(0o644)
        if settings is not None:
            beside = self.path / f"plugin_{name}.toml"
            beside.write_text(settings)
            beside.chmod(0o600)

    def run(self, command: str, **asked: object) -> Attempt:
        host = HostPolicy(plugin_dir=str(self.path), cancel_grace_seconds=1)
        return self._attempts.run(command, host=host, **asked)


@pytest.fixture
def folder(tmp_path: Path, attempts: Attempts) -> Folder:
    return Folder(tmp_path / "operators", attempts)


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    """A chat server of loopback; what it was sent is in ``server.messages``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.messages.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.messages = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_of_them_work_together_as_they_are(folder: Folder) -> None:
    for path in EXAMPLES.glob("plugin_*.py"):
        folder.take(path.stem.removeprefix("plugin_"))

    done = folder.run("echo ran")

    assert done.result.status == "completed"
    assert done.output == "ran\n"
    assert len(list(folder.path.iterdir())) == 5


def test_the_artifact_collector_keeps_reports_and_follows_no_link(folder: Folder, tmp_path: Path) -> None:
    folder.take("artifact_collector", 'globs = ["**/junit*.xml", "logs"]\nlimit_bytes = 1000\n')
    canary = tmp_path / "canary"
    canary.write_text("sings")

    done = folder.run(
        "mkdir -p a logs; echo '<r/>' > a/junit-1.xml; echo x > logs/one; echo y > other;"
        f"ln -s {canary} a/junit-2.xml; head -c 2000 /dev/zero > junit-large.xml; exit 3"
    )

    assert done.result.exit_code == 3
    listed = json.loads((done.spool / "artifacts.json").read_bytes())
    assert [entry["path"] for entry in listed] == ["collected/a/junit-1.xml", "collected/logs/one"]
    assert b"junit-large.xml is not collected" in done.log


def test_the_environment_injector_adds_what_the_job_does_not_set(folder: Folder, tmp_path: Path) -> None:
    private = tmp_path / "job-secrets.toml"
    private.write_text('REGISTRY_LOGIN = "swordfish"\n')
    private.chmod(0o600)
    folder.take(
        "environment_injector",
        f'secrets_file = "{private}"\n[variables]\nPROXY = "http://proxy:3128"\nMINE = "operator"\n',
    )

    done = folder.run("echo $PROXY $MINE $REGISTRY_LOGIN", environment={"MINE": "job"})

    assert done.output == "http://proxy:3128 job [REDACTED]\n"


def test_the_environment_injector_refuses_secrets_that_others_can_read(
    folder: Folder, tmp_path: Path
) -> None:
    private = tmp_path / "job-secrets.toml"
    private.write_text('A = "swordfish"\n')
    private.chmod(0o644)
    folder.take("environment_injector", f'secrets_file = "{private}"\n')

    done = folder.run("echo ran")

    assert done.result.reason == "internal"
    assert "chmod 600" in str(done.result.message)


def test_the_timer_tells_how_long_each_part_took(folder: Folder) -> None:
    folder.take("timer")

    done = folder.run("sleep 0.3")

    assert b"[timer] checks " in done.log
    assert b"command 0." in done.log
    assert b", in all " in done.log


def test_the_resource_limiter_lowers_refuses_and_takes_the_network_away(folder: Folder) -> None:
    folder.take(
        "resource_limiter",
        '[[rules]]\nname = "a j*"\nnetwork = "none"\ncap = {memory_mb = 64, pids = 50}\n'
        "hard_cap = {memory_mb = 1000}\n",
    )

    lowered = folder.run("true", resources=Resources(memory_mb=500, pids=20))
    refused = folder.run("echo ran", resources=Resources(memory_mb=2000))

    limits = lowered.result.limits
    assert limits is not None
    assert (limits.memory_mb, limits.pids, limits.network) == (64, 20, "none")
    assert b"memory_mb is limited to 64" in lowered.log
    assert refused.result.reason == "policy_denied"
    assert "ran" not in refused.output


def test_a_job_cannot_leave_the_resource_limiter_out(folder: Folder) -> None:
    folder.take("resource_limiter", '[[rules]]\nname = "*"\ncap = {memory_mb = 64}\n')
    folder.take("timer")

    done = folder.run("true", plugins=("timer",))

    assert done.result.limits is not None
    assert done.result.limits.memory_mb == 64


def test_the_chat_notifier_tells_of_failures_only_and_no_secret(folder: Folder, receiver: HTTPServer) -> None:
    folder.take("chat_notifier", f'url = "http://127.0.0.1:{receiver.server_port}/hooks/swordfish"\n')

    failed = folder.run("echo $KEY; exit 4", secrets={"KEY": "opensesame"}, job_name="uses opensesame")
    folder.run("true")

    ((path, body),) = receiver.messages  # type: ignore[attr-defined]
    assert path == "/hooks/swordfish"
    assert body["text"].startswith("uses [REDACTED] failed (exit_nonzero, exit code 4), job ")
    assert b"swordfish" not in failed.log


def test_a_chat_server_that_is_away_costs_no_job_its_end(folder: Folder) -> None:
    folder.take("chat_notifier", 'url = "http://127.0.0.1:1/swordfish"\non = ["completed"]\n')

    done = folder.run("true")

    assert done.result.status == "completed"
    assert b"no message was sent" in done.log
    assert b"swordfish" not in done.log
