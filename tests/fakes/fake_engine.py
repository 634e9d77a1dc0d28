"""A stand-in for a container engine's program: it answers as it is told, and notes what it was asked."""

from pathlib import Path

_SCRIPT = """#!/bin/sh
printf '%s\\n' "$*" >>{notes}
case "$1" in
--version) echo '{kind} version 9.9' ;;
info) {info} ;;
image) {look} ;;
pull) {pull} ;;
esac
"""
HERE = f"""echo '{{"id":"sha256:{"a" * 64}","digests":["host/name@sha256:{"b" * 64}"]}}'"""
"""What it says of an image that it has."""
ABSENT = "echo 'no such image' >&2; exit 1"
INFO = '{"version":"9.9","cgroup":"2","memory":true,"pids":true,"cpu":false,"security":["name=seccomp"]}'
ANSWERS = f"echo '{INFO}'"
SILENT = "echo 'Cannot connect to the daemon' >&2; exit 1"


class FakeEngine:
    """One such program in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        kind: str = "docker",
        *,
        info: str = ANSWERS,
        look: str = HERE,
        pull: str = "exit 0",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / kind
        self._notes = folder / f"{kind}-notes"
        here = f"[ -e {folder}/pulled ] && {{ {HERE}; exit; }}; {look}"
        self.path.write_text(
            _SCRIPT.format(
                notes=self._notes, kind=kind, info=info, look=here, pull=pull.format(folder=folder)
            )
        )
        self.path.chmod(0o755)

    def asked(self) -> list[str]:
        """Return the arguments of each call, in order."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []
