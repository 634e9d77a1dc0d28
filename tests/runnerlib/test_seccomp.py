"""System calls that a job may not make, and that those of usual builds are not among them."""

import json
import platform
import shlex
import struct
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from pathlib import Path

import pytest

from attempt_runs import Attempts
from runnerlib.executors.seccomp import AARCH64, PROCESSORS, X86_64, Processor, compose_filter

PYTHON = "/usr/bin/python3"
ALLOWED, KILLED = 0, -1
SIGCHLD = 17
THREAD_FLAGS = 0x3D0F00
"""What the C library starts a thread with."""
needs_python = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason="the sandbox sees only the system's Python"
)
needs_filter = pytest.mark.skipif(
    platform.machine() not in PROCESSORS, reason=f"no filter is made for {platform.machine()}"
)
both = pytest.mark.parametrize("processor", [X86_64, AARCH64], ids=["x86_64", "aarch64"])

MAKE_CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = []
for number, *arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    said = [ctypes.c_char_p(a.encode()) if isinstance(a, str) else ctypes.c_long(a) for a in arguments]
    libc.syscall(ctypes.c_long(number), *said)
    answers.append(ctypes.get_errno())
print(json.dumps(answers))
"""


def answer(processor: Processor, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would do by the filter: the error, `ALLOWED` or `KILLED`."""
    padded = [argument & 2**64 - 1 for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number, architecture or processor.architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", compose_filter(processor)))
    place = loaded = 0
    while True:
        code, skips, skips_else, operand = steps[place]
        place += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                loaded &= operand
            case 0x06:
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(operand, operand & 0xFFFF)
            case 0x15:
                place += skips if loaded == operand else skips_else
            case 0x35:
                place += skips if loaded >= operand else skips_else
            case 0x45:
                place += skips if loaded & operand else skips_else
            case _:
                pytest.fail(f"instruction {code:#x} is none of the filter's")


def errors_in_a_sandbox(attempts: Attempts, calls: list[list[int | str]]) -> list[int]:
    done = attempts.run(f"{PYTHON} -c {shlex.quote(MAKE_CALLS)} {shlex.quote(json.dumps(calls))}")
    found: list[int] = json.loads(done.output)
    return found


@both
def test_calls_that_no_build_needs_are_refused_whatever_they_ask_for(processor: Processor) -> None:
    answers = {name: answer(processor, number) for name, number in processor.refused.items()}

    assert set(answers.values()) == {EPERM}


@both
def test_programs_of_another_kind_of_processor_are_killed(processor: Processor) -> None:
    i386, other = 0x40000003, (AARCH64 if processor is X86_64 else X86_64).architecture

    assert answer(processor, 20, architecture=i386) == KILLED
    assert answer(processor, 20, architecture=other) == KILLED


def test_the_numbers_of_x32_do_not_get_past_the_filter() -> None:
    assert answer(X86_64, 0x40000000 + 521) == ENOSYS  # ptrace
    assert answer(X86_64, 2**32 - 1) == ENOSYS


@both
@pytest.mark.parametrize("flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 1 << 28, 1 << 29, 1 << 30])
def test_no_namespace_is_made_by_any_call(processor: Processor, flag: int) -> None:
    assert answer(processor, processor.clone, flag | SIGCHLD) == EPERM
    assert answer(processor, processor.unshare, flag) == EPERM
    assert answer(processor, processor.clone3) == ENOSYS


@both
def test_processes_and_threads_are_made_as_usual(processor: Processor) -> None:
    assert answer(processor, processor.clone, SIGCHLD) == ALLOWED
    assert answer(processor, processor.clone, THREAD_FLAGS) == ALLOWED
    assert answer(processor, processor.clone, 0x4111) == ALLOWED  # vfork
    assert answer(processor, processor.unshare, 0x600) == ALLOWED  # files and directory of a thread
    assert answer(processor, processor.unshare, 0x80) == EPERM  # a namespace for time


@both
@pytest.mark.parametrize(
    ("family", "protocol", "expected"),
    [
        *((family, 0, ALLOWED) for family in (1, 2, 10, 16)),
        *((16, protocol, EAFNOSUPPORT) for protocol in (2, 4, 9, 12, 15, 16, 21)),
        *((family, 0, EAFNOSUPPORT) for family in range(46) if family not in (1, 2, 10, 16)),
    ],
)
def test_sockets_are_of_this_host_or_of_the_internet(
    processor: Processor, family: int, protocol: int, expected: int
) -> None:
    assert answer(processor, processor.socket, family, 1, protocol) == expected


@both
def test_what_the_kernel_ignores_of_an_argument_gets_nothing_past_the_filter(processor: Processor) -> None:
    high = 1 << 32

    assert answer(processor, processor.socket, high | 38, 1) == EAFNOSUPPORT
    assert answer(processor, processor.ioctl, 0, high | 0x5412) == EPERM
    assert answer(processor, processor.clone, high | 1 << 28) == EPERM


@both
def test_nothing_is_typed_into_terminals_of_others(processor: Processor) -> None:
    assert answer(processor, processor.ioctl, 0, 0x5412) == EPERM  # TIOCSTI
    assert answer(processor, processor.ioctl, 0, 0x541C) == EPERM  # TIOCLINUX
    assert answer(processor, processor.ioctl, 0, 0x5423) == EPERM  # TIOCSETD
    assert answer(processor, processor.ioctl, 0, 0x5401) == ALLOWED  # TCGETS


@both
@pytest.mark.parametrize("personality", [0, 0x8, 0x20000, 0x40000, 0x60008, 0xFFFFFFFF])
def test_a_program_may_ask_how_it_is_run_and_have_its_addresses_stay(
    processor: Processor, personality: int
) -> None:
    assert answer(processor, processor.personality, personality) == ALLOWED


@both
@pytest.mark.parametrize("bit", [bit for bit in range(32) if bit not in (3, 17, 18)])
def test_no_personality_undoes_what_protects_a_program(processor: Processor, bit: int) -> None:
    assert answer(processor, processor.personality, 1 << bit) == EPERM
    assert answer(processor, processor.personality, 0x40000 | 1 << bit) == EPERM


@both
def test_devices_are_not_made_but_pipes_sockets_and_files_are(processor: Processor) -> None:
    for number, place in processor.device_makers.items():
        for kind, expected in [(0o2, EPERM), (0o6, EPERM), (0o1, 0), (0o10, 0), (0o14, 0), (0, 0)]:
            arguments = [0, 0, 0, 0]
            arguments[place] = kind << 12 | 0o644

            assert answer(processor, number, *arguments) == expected


@needs_python
@needs_filter
def test_run_16_a_job_is_refused_what_the_filter_refuses(attempts: Attempts) -> None:
    processor = PROCESSORS[platform.machine()]
    refused = dict(processor.refused)
    wrong: list[list[int | str]] = [
        [processor.clone, 1 << 28 | SIGCHLD, 0, 0, 0, 0],
        [processor.unshare, 1 << 28],
        [processor.ioctl, 0, 0x5412, "x"],
        [processor.ioctl, 0, 0x541C, "x"],
        [processor.ioctl, 0, 0x5423, "x"],
        [processor.personality, 0x400000],
        *[_make_file(number, place, 0o020644) for number, place in processor.device_makers.items()],
        [processor.clone3, 0, 0],
        [processor.socket, 38, 5, 0],
        [processor.socket, 16, 3, 4],
        [processor.socketpair, 30, 1, 0, 0],
    ]

    errors = errors_in_a_sandbox(
        attempts, [*([number, 0, 0, 0, 0, 0] for number in refused.values()), *wrong]
    )

    assert dict(zip(refused, errors, strict=False)) == dict.fromkeys(refused, EPERM)
    assert errors[len(refused) : -4] == [EPERM] * (len(wrong) - 4)
    assert errors[-4:] == [ENOSYS, EAFNOSUPPORT, EAFNOSUPPORT, EAFNOSUPPORT]


def _make_file(number: int, place: int, mode: int) -> list[int | str]:
    """The call that makes a file of this mode; as a device it is number 0, which needs no right."""
    return [number, *([-100] if place == 2 else []), f"/job/home/made-{number}", mode, 0]


@needs_python
@needs_filter
def test_pipes_files_and_the_internet_stay_with_a_job(attempts: Attempts) -> None:
    processor = PROCESSORS[platform.machine()]

    errors = errors_in_a_sandbox(
        attempts,
        [
            *[_make_file(number, place, 0o010644) for number, place in processor.device_makers.items()],
            [processor.unshare, 0x600],
            [processor.personality, 0x40000],
            *([processor.socket, family, 2, 0] for family in (1, 2, 10)),
            [processor.socket, 16, 3, 0],
        ],
    )

    assert set(errors) == {0}


@needs_python
@pytest.mark.skipif(platform.machine() != "x86_64", reason="no other processor here runs calls of i386")
def test_a_call_of_a_foreign_architecture_kills_the_program(attempts: Attempts) -> None:
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code = (
        "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3'));"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))(); print('answered')"
    )

    done = attempts.run(f"{PYTHON} -c {shlex.quote(code)}")

    assert "answered" not in done.output
    # SIGSYS of the filter; SIGSEGV where the kernel itself has none of these calls.
    assert done.result.exit_code in (128 + 31, 128 + 11)


@pytest.mark.parametrize(
    ("program", "command"),
    [
        (
            "git",
            "git init -q . && git -c user.name=x -c user.email=x@y commit -q --allow-empty -m x && git gc -q",
        ),
        (
            "make",
            "printf 'all: a b\\na b:\\n\\tsleep 0; echo $@ > $@\\n' > Makefile && make -s -j4 && cat a b",
        ),
        ("gcc", "echo 'int main(void){return 0;}' > x.c && gcc -pipe -o x x.c && ./x"),
        (
            "python3",
            "python3 -c 'import multiprocessing as m, subprocess as s, threading as t, asyncio, socket;"
            ' x = t.Thread(target=print); x.start(); x.join(); s.run(["true"], check=True);'
            ' asyncio.run(asyncio.create_subprocess_exec("true"));'
            ' c = m.get_context("fork"); p = c.Process(target=print); p.start(); p.join();'
            ' socket.getaddrinfo("127.0.0.1", 80); assert p.exitcode == 0\'',
        ),
        (
            "node",
            'node -e \'const c = require("child_process"), w = require("worker_threads"), fs = require("fs");'
            ' c.execSync("true"); require("os").networkInterfaces(); new w.Worker("1+1", {eval: true})'
            '.on("exit", () => fs.readFile("/etc/passwd", e => { if (e) throw e; }))\'',
        ),
        ("java", "java -XshowSettings:system -version"),
        (
            "javac",
            "echo 'class A { public static void main(String[] a) throws Exception {"
            " var t = new Thread(() -> {}); t.start(); t.join();"
            ' new ProcessBuilder("true").start().waitFor();'
            " java.security.SecureRandom.getInstanceStrong(); } }' > A.java && javac A.java && java -cp . A",
        ),
        (
            "gcc",
            "echo '#include <pthread.h>\\nint n; void *f(void *a) { n++; return 0; } int main(void) {"
            " pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0) || n != 1; }' > x.c"
            " && export ASAN_OPTIONS=detect_leaks=0 && for kind in address thread undefined; do"
            # Not every host has the libraries of each.
            " gcc -fsanitize=$kind -pthread -o x x.c || continue; ./x || exit; done",
        ),
        ("perl", "perl -e 'fork // die; wait; system(\"true\") == 0 or die'"),
        ("tar", "mkdir d && echo x > d/x && tar -czf d.tar.gz d && rm -r d && tar -xzf d.tar.gz && cat d/x"),
    ],
)
def test_usual_builds_go_on_working(attempts: Attempts, program: str, command: str) -> None:
    if not Path("/usr/bin", program).exists():
        pytest.skip(f"{program} is not installed here")

    done = attempts.run(command)

    assert done.result.exit_code == 0, done.output
