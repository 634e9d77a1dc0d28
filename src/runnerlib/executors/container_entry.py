"""What a container's first process is told on its standard input: a script for ``/bin/sh -s``.

The job's variables and its command travel here and nowhere else, so that neither argv nor what an
engine keeps of a container ever holds them. The whole script is one compound command: a shell reads
it to its end before it runs any of it, and what comes later on the input is not mistaken for script.

The first process stays, as the container's init: it outlives TERM, buries orphans and ends with the
job's exit code. A listener beside it reads what follows the script: each line sends TERM to the job's
process group; the end of the input, when the runner is dead, kills all there is.
"""

import re
from collections.abc import Mapping

from runnerlib.executors.port import CHANNEL

READY = b"reactorcide-job-begins\n"
"""The first line on standard error: the job begins now, and all that follows is its own."""
TERM = b"term\n"
OUT_OF_MEMORY = "out-of-memory"
"""Name of the file in the channel's folder that says the kernel killed for want of memory."""
OWN_PROCESSES = 2
"""Init and listener count among the processes of the container."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COUNTERS = frozenset(
    (
        "OPTIND",
        "RANDOM",
        "SRANDOM",
        "SECONDS",
        "HISTCMD",
        "LINENO",
        "EPOCHSECONDS",
        "EPOCHREALTIME",
        "BASHPID",
    )
)
"""What one shell or another counts with."""
_MEMORY_EVENTS = "/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"


class NameRefused(ValueError):
    """A variable has a name that no shell takes."""


def compose_entry(command: str, environment: Mapping[str, str]) -> bytes:
    """Return the script that runs ``command`` with these variables besides the image's own.

    ``command export`` is an ``export`` whose failure is not the shell's end: some shells hold a few
    names, such as ``UID``, for their own.

    Raises:
        NameRefused: a variable's name is none.
    """
    for name in environment:
        if not _NAME.fullmatch(name):
            raise NameRefused(f"{name[:100]!r} is no name of an environment variable")
    exports = b"".join(_export(name, value) for name, value in environment.items())
    return b"\n".join(
        (
            b"{",
            b"echo " + READY.strip() + b" >&2",
            b"exec 3<&0 4>&2 2>/dev/null",
            b"(",
            b"trap '' TERM",
            # A shell of some images gives up reading after so many seconds.
            b"unset TMOUT",
            b"while read -r word <&3; do kill -TERM 0; done",
            # Everything there is, but never outside of a container.
            b'[ "$$" = 1 ] && kill -KILL -1',
            b") </dev/null >/dev/null 4>&- &",
            # In a shell of its own until it is the job's: ours says how a command died on what it was given.
            exports + b"( exec </dev/null 2>&4 3<&- 4>&-; exec /bin/sh -c -- " + _quoted(command) + b" )",
            b"code=$?",
            b'if [ "$code" != 0 ]; then',
            b"for file in " + _MEMORY_EVENTS.encode() + b"; do",
            b'[ -r "$file" ] && while IFS=" " read -r key count; do',
            b'if [ "$key" = oom_kill ] && [ "$count" != 0 ]; then : >' + _marker() + b"; fi",
            b'done <"$file"',
            b"done",
            b"fi",
            b'exit "$code"',
            b"}",
            b"",
        )
    )


def _export(name: str, value: str) -> bytes:
    export = b"command export " + name.encode() + b"=" + _quoted(value)
    # Some shells end when one of these is no number: one that may end tries first.
    return b"( " + export + b" ) && " + export + b"\n" if name in _COUNTERS else export + b"\n"


def _marker() -> bytes:
    return f"{CHANNEL}/{OUT_OF_MEMORY}".encode()


def _quoted(text: str) -> bytes:
    return b"'" + text.encode(errors="surrogateescape").replace(b"'", b"'\\''") + b"'"
