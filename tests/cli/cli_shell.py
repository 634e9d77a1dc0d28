"""Someone at a shell: the commands as real processes against the real API."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The people who call the API live beside its own tests.
sys.path.append(str(Path(__file__).parents[1] / "api"))

from api_people import POLICY, Api, Person, running_api

from reactorcide.domain.jobs import StartedAttempt

__all__ = ["POLICY", "Api", "Done", "Keyboard", "Person", "ended", "keyboard_of", "running_api", "start_job"]


@dataclass
class Done:
    """A command that ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass
class Keyboard:
    """Someone at a shell, with a token in the environment."""

    url: str
    token: str
    folder: Path
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(
        self, *arguments: str, stdout: int | None = None, **environ: str
    ) -> asyncio.subprocess.Process:
        own = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "REACTORCIDE_API_URL": self.url,
            "REACTORCIDE_API_TOKEN": self.token,
            **environ,
        }
        process = await asyncio.create_subprocess_exec(
            # A test run in the background may have Ctrl-C switched off for all its children.
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "reactorcide",
            *arguments,
            env={name: value for name, value in own.items() if value},
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE,
        )
        self.started.append(process)
        return process

    async def leave(self) -> None:
        """End what a failed test left behind."""
        for process in self.started:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def type(self, *arguments: str, **environ: str) -> Done:
        return await ended(await self.start(*arguments, **environ))


async def ended(process: asyncio.subprocess.Process) -> Done:
    stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, stdout or b"", stderr.decode())


async def start_job(api: Api) -> StartedAttempt:
    """Take the job that a command submits, once it is there."""
    async with asyncio.timeout(30):
        while not await api.count_jobs():
            await asyncio.sleep(0.02)
    return await api.start_next()


def keyboard_of(person: Person, folder: Path) -> Keyboard:
    return Keyboard(person.api.url, person.token, folder)
