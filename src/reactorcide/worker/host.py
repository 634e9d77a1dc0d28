"""What a worker asks of its host, by runnerlib's commands: which isolation there is, a clean start."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from runnerlib.spec import HostPolicy, Measure

log = structlog.get_logger()

# Light and not in the caller's directory; see `runner.RUNNER_COMMAND`.
_RUNNERLIB = (sys.executable, "-P", "-m", "runnerlib.cli")
_INHERITED = (
    *("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    # Where container engines find their service, their configuration and their log-ins.
    *("HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "REGISTRY_AUTH_FILE"),
)
ISOLATION_LIMIT_SECONDS = 20.0
CLEAN_LIMIT_SECONDS = 60.0


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return all that runners, and so jobs' guardians, may see of the worker's own environment."""
    return {name: environ[name] for name in _INHERITED if name in environ}


class Isolation(msgspec.Struct, frozen=True):
    """What keeps jobs apart on this host; ``detail`` says more. runnerlib's answer may hold more still."""

    name: str
    detail: str
    measures: tuple[Measure, ...] = ()
    unmet: tuple[str, ...] = ()
    """Measures that the operator requires and that are not enforced."""

    @property
    def is_present(self) -> bool:
        """Whether jobs are sandboxed."""
        return self.name not in ("none", "unsandboxed")


class HostCommands:
    """Runs runnerlib's commands with a clean environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def isolation(self, policy: HostPolicy) -> Isolation:
        """Find out which isolation jobs get by this policy; no answer counts as none."""
        code, output = await self._run(["isolation", "--json", *_wishes(policy)], ISOLATION_LIMIT_SECONDS)
        try:
            return msgspec.json.decode(output, type=Isolation)
        except msgspec.DecodeError:
            said = output.decode(errors="replace").strip()[-500:]
            return Isolation("none", f"exit code {code}: {said}", unmet=policy.require_isolation)

    async def clean(self, work_dir: Path, attempt: str | None = None) -> None:
        """Kill the sandbox and remove the workspace of ``attempt``, whose runner is dead.

        Args:
            attempt: `<job id>.<number>`; None: every one there, as all are a former self's.
        """
        if not await asyncio.to_thread(_has_entries, work_dir):
            return
        names = [] if attempt is None else [attempt]
        code, output = await self._run(
            ["cleanup", "--also-running", str(work_dir), *names], CLEAN_LIMIT_SECONDS
        )
        if code == 0:
            log.info("host.cleaned", said=output.decode(errors="replace").strip()[-500:])
        else:
            log.error("host.not_cleaned", exit_code=code, said=output.decode(errors="replace")[-500:])

    async def _run(self, arguments: list[str], limit_seconds: float) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            *_RUNNERLIB,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._environment),
        )
        try:
            async with asyncio.timeout(limit_seconds):
                output, _ = await process.communicate()
        except TimeoutError:
            return -1, b"no answer in time"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, output


def _wishes(policy: HostPolicy) -> list[str]:
    """Return what the policy says on isolation, as flags of the command."""
    flags = {"--unsandboxed": policy.unsandboxed, "--container-allow-root": policy.container_allow_root}
    named = {
        "--executor": policy.executor,
        "--container-engine": policy.container_engine,
        "--container-user": policy.container_user,
        "--container-network": policy.container_network,
    }
    return [
        *(name for name, is_set in flags.items() if is_set),
        *(f"{name}={value}" for name, value in named.items() if value is not None),
        *(f"--read-only-path={path}" for path in policy.read_only_paths),
        *(f"--require={name}" for name in policy.require_isolation),
    ]


def _has_entries(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())
