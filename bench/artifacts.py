"""Measure how fast one large artifact goes to the coordinator and back, beside `cp` with a sync.

Run: `python bench/artifacts.py [MiB] [filesystem|s3]` (default 1024, filesystem). The coordinator is a
process of its own on a real PostgreSQL; `s3` is an emulator in another one, and the store's own client
library is measured beside. Prints seconds, MiB per second, and what CPU and memory each process took.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx2

from reactorcide.config import Settings, load_settings
from reactorcide.domain.accounts import TokenKind
from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.jobs import AttemptOutcome, Claim
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.wiring.api import serving
from reactorcide.wiring.core import Core, open_core
from reactorcide.wiring.worker import direct_gateway, remote_gateway
from reactorcide.worker.gateway.port import Gateway

USER_ID = "01890000-0000-7000-8000-00000000abcd"
LOST = AttemptOutcome(
    JobStatus.FAILED, Reason.EXIT_NONZERO, Fault.USER, 0, hashlib.sha256().digest(), exit_code=1
)
MIB = 1024**2


def settings_in(folder: Path) -> Settings:
    given = {"REACTORCIDE_DATA_DIR": str(folder), "REACTORCIDE_PORT": "0"}
    return load_settings({**os.environ, **given}).settings


async def serve(dsn: str, folder: Path) -> None:
    """Be the coordinator; its first line says where it is."""
    settings = settings_in(folder)
    async with open_core(settings, dsn, objects_dir=folder / "objects") as core:
        await core.accounts.bootstrap_admin(USER_ID, folder / "admin-token")
        async with serving(core, "127.0.0.1") as url:
            sys.stdout.write(url + "\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)


async def end_an_attempt(core: Core, gateway: Gateway, name: str) -> Claim:
    """Return the claim of an attempt that has ended and promised one artifact."""
    caller = await core.accounts.authenticate((core.settings.data_dir / "admin-token").read_text().strip())
    await core.jobs.submit(caller, JobRequest(name="bench", source_type="none", job_command="true"))
    identity = WorkerIdentity(name, str(uuid.uuid4()), ("reactorcide-jobs",), 1, "1", "none")
    worker_id = (await gateway.register(identity, [])).worker_id
    claim = (await gateway.claim(worker_id, 1, core.timing.heartbeat))[0]
    await gateway.start(claim)
    await gateway.finish(claim, replace(LOST, artifacts=1))
    return claim


async def bring(gateway: Gateway, claim: Claim, file: Path, sha256: str) -> float:
    began = time.perf_counter()
    size = file.stat().st_size
    listed = [Artifact("large", size, sha256, "application/octet-stream")]
    await gateway.put_artifact(claim, sha256, size, file)
    assert await gateway.seal_artifacts(claim, listed) == []
    return time.perf_counter() - began


async def measure(server: "subprocess.Popen[str]", core: Core, url: str, file: Path, sha256: str) -> None:
    size, me = file.stat().st_size, os.getpid()
    caller = await core.accounts.authenticate((core.settings.data_dir / "admin-token").read_text().strip())
    minted = await core.accounts.mint_token(
        caller, name="bench", expires_at=None, user_id=None, kind=TokenKind.WORKER
    )
    user = (core.settings.data_dir / "admin-token").read_text().strip()
    began = time.perf_counter()
    shutil.copyfile(file, file.with_name("copy"))
    with file.with_name("copy").open("rb+") as copy:
        os.fsync(copy.fileno())
    tell("cp and sync", size, time.perf_counter() - began)
    began = time.perf_counter()
    with file.open("rb") as opened:
        hashlib.file_digest(opened, "sha256")
    tell("SHA-256 alone", size, time.perf_counter() - began)
    if core.settings.object_store_type == "s3":
        tell("the store's client library, up", size, await asyncio.to_thread(put_by_library, core, file))
    async with remote_gateway(core.settings, url, lambda: minted.text) as remote:
        claim = await end_an_attempt(core, remote, "remote")
        watched = Watched("worker", me), Watched("coordinator", server.pid)
        tell("worker to coordinator over HTTP", size, await bring(remote, claim, file, sha256))
        for one in watched:
            one.tell()
    watched = Watched("client", me), Watched("coordinator", server.pid)
    seconds = await asyncio.to_thread(
        download, f"{url}/api/v1/jobs/{claim.job_id}/artifacts/large", user, sha256
    )
    tell("download, digest checked", size, seconds)
    for one in watched:
        one.tell()
    direct = direct_gateway(core)
    claim, alone = await end_an_attempt(core, direct, "direct"), Watched("worker", me)
    tell("worker that shares the store", size, await bring(direct, claim, file, sha256))
    alone.tell()


def download(address: str, token: str, sha256: str) -> float:
    began, digest = time.perf_counter(), hashlib.sha256()
    with httpx2.stream(
        "GET", address, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    ) as answer:
        for piece in answer.iter_raw():
            digest.update(piece)
    assert digest.hexdigest() == sha256
    return time.perf_counter() - began


def put_by_library(core: Core, file: Path) -> float:
    import obstore
    from obstore.store import S3Store

    settings = core.settings
    store = S3Store(
        settings.object_store_bucket,
        endpoint=settings.aws_endpoint_url,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "300s"},
    )
    began = time.perf_counter()
    obstore.put(store, "library", file)
    return time.perf_counter() - began


def use_s3(stack: AsyncExitStack) -> None:
    """Stand a server that speaks S3 beside us, and name it to every part."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from fakes.s3_server import S3Server

    server = stack.enter_context(S3Server())
    os.environ |= {
        "REACTORCIDE_OBJECT_STORE_TYPE": "s3",
        "REACTORCIDE_OBJECT_STORE_BUCKET": server.make_bucket(),
        "AWS_ENDPOINT_URL": server.s3_url,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


def tell(what: str, size: int, seconds: float) -> None:
    print(f"{what:34} {seconds:7.2f} s {size / MIB / seconds:8.0f} MiB/s")


class Watched:
    """What a process used since: on a busy machine that says more than the time does."""

    def __init__(self, who: str, pid: int) -> None:
        self._who = who
        self._pid = pid
        self._peak, self._cpu = self._look()

    def tell(self) -> None:
        peak, cpu = self._look()
        used = f"used {cpu - self._cpu:.1f} s of CPU and grew by {(peak - self._peak) / MIB:.1f} MiB"
        print(f"{'':34} the {self._who} {used}")

    def _look(self) -> tuple[int, float]:
        """Return the most memory that the process has had, and its CPU seconds."""
        folder = Path(f"/proc/{self._pid}")
        lines = (folder / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        return peak, sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


async def main(size: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reactorcide-bench-")))
        folder.chmod(0o711)
        if sys.argv[2:3] == ["s3"]:
            use_s3(stack)
        postgres = EmbeddedPostgres(folder / "pg")
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", postgres.dsn, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        stack.callback(server.wait, 30)
        stack.callback(server.stdin.close)  # type: ignore[union-attr]
        # What else it says there is its log.
        url = next(line.strip() for line in server.stdout if line.startswith("http"))  # type: ignore[union-attr]
        file = folder / "file"
        with file.open("wb") as made:
            for _ in range(size // MIB):
                made.write(os.urandom(MIB))
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        core = await stack.enter_async_context(
            open_core(settings_in(folder), postgres.dsn, objects_dir=folder / "objects")
        )
        await measure(server, core, url, file, sha256)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        asyncio.run(main(int(sys.argv[1]) * MIB if sys.argv[1:] else 1024 * MIB))
