"""The system calls that no job needs and that have been ways out of sandboxes: a filter that refuses them.

The filter is a program for the kernel's classic BPF machine, made once for the processor of this host.
bubblewrap puts it on just before it runs the job; nothing can take it off again. What it refuses
fails with EPERM, as without the right to it; what programs try and do otherwise without, fails as on a
kernel that lacks it. Neither ends the program.
"""

import ctypes
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from errno import EAFNOSUPPORT, EFAULT, ENOSYS, EPERM
from functools import cache

# Instructions, from linux/bpf_common.h.
_LOAD_WORD, _AND, _RETURN = 0x20, 0x54, 0x06
_IS_EQUAL, _IS_AT_LEAST, _HAS_BITS = 0x15, 0x35, 0x45

# Where struct seccomp_data has what, on little endian processors: number, architecture, arguments.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_ALLOW, _ERROR, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_FOREIGN_NUMBERS = 0x40000000
"""From here on are the calls of x32, with which a filter by number could be passed."""

_NEW_NAMESPACES = 0x7E020000
"""Every CLONE_NEW flag but that for time, which is 0x80: part of the end signal in clone."""
_NEW_TIME = 0x80
_TERMINAL_ORDERS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI and TIOCLINUX: type, or paste, what somebody else's shell will read. TIOCSETD: have the kernel
load a line discipline, of which old and little read ones can be had."""
_PERSONALITIES = 0x20000 | 0x40000 | 0x8
"""UNAME26, ADDR_NO_RANDOMIZE, as sanitizers and debuggers want it, and the names of 32 bits; each weakens
nobody but who asks. Others undo what protects a program from its input."""
_ASK_PERSONALITY = 0xFFFFFFFF
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_FILE_KIND, _CHARACTER_DEVICE, _BLOCK_DEVICE = 0xF000, 0x2000, 0x6000

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_SAME_EVERYWHERE = {
    "pidfd_getfd": 438,
    **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
    **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
    **{"mount_setattr": 442, "quotactl_fd": 443, "open_tree_attr": 467},
}


@dataclass(frozen=True)
class Processor:
    """A kind of processor: its AUDIT_ARCH, and its numbers of calls that jobs may not make."""

    architecture: int
    refused: Mapping[str, int]
    """Whatever their arguments are."""
    clone: int
    unshare: int
    ioctl: int
    socket: int
    socketpair: int
    personality: int
    device_makers: Mapping[int, int]
    """Calls that make devices among other things, and which of their arguments says what."""
    clone3: int = 435
    has_foreign_numbers: bool = field(default=False)


X86_64 = Processor(
    0xC000003E,
    {
        **_SAME_EVERYWHERE,
        **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312},
        **{"add_key": 248, "request_key": 249, "keyctl": 250},
        **{"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308},
        **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "fanotify_init": 300},
        **{"kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168},
        **{"init_module": 175, "finit_module": 313, "delete_module": 176, "iopl": 172, "ioperm": 173},
        **{"settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305},
        **{"acct": 163, "quotactl": 179, "syslog": 103, "vhangup": 153, "lookup_dcookie": 212},
        **{"name_to_handle_at": 303, "open_by_handle_at": 304},
    },
    clone=56,
    unshare=272,
    ioctl=16,
    socket=41,
    socketpair=53,
    personality=135,
    device_makers={133: 1, 259: 2},
    has_foreign_numbers=True,
)

AARCH64 = Processor(
    0xC00000B7,
    {
        **_SAME_EVERYWHERE,
        **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272},
        **{"add_key": 217, "request_key": 218, "keyctl": 219},
        **{"mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "setns": 268},
        **{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "fanotify_init": 262},
        **{"kexec_load": 104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225},
        **{"init_module": 105, "finit_module": 273, "delete_module": 106},
        **{"settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266},
        **{"acct": 89, "quotactl": 60, "syslog": 116, "vhangup": 58, "lookup_dcookie": 18},
        **{"name_to_handle_at": 264, "open_by_handle_at": 265},
    },
    clone=220,
    unshare=97,
    ioctl=29,
    socket=198,
    socketpair=199,
    personality=92,
    device_makers={33: 2},
)

PROCESSORS = {"x86_64": X86_64, "aarch64": AARCH64}
"""By what ``uname -m`` calls them."""


@cache
def find_filter() -> bytes | None:
    """Return the filter for this host; None: its kernel has no filters, or its processor is none of ours."""
    processor = PROCESSORS.get(platform.machine())
    if processor is None or not _kernel_has_filters():
        return None
    return compose_filter(processor)


def compose_filter(processor: Processor) -> bytes:
    """Return the program, an array of ``struct sock_filter``.

    What depends on arguments comes first: the kernel knows beforehand how the rest is answered and runs
    nothing for it.
    """
    program = [
        _step(_LOAD_WORD, _ARCHITECTURE),
        _step(_IS_EQUAL, processor.architecture, skips=1),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD_WORD, _NUMBER),
    ]
    if processor.has_foreign_numbers:
        program += [_step(_IS_AT_LEAST, _FOREIGN_NUMBERS, skips_else=1), _refuse(ENOSYS)]
    program += _when(processor.clone, _refuse_bits(_NEW_NAMESPACES))
    program += _when(processor.ioctl, _argument(1) + _refuse_values(_TERMINAL_ORDERS))
    program += _when(processor.socket, _refuse_families())
    program += _when(processor.socketpair, [*_argument(0), *_allow_values((_UNIX,)), _refuse(EAFNOSUPPORT)])
    for number, mode in processor.device_makers.items():
        kinds = _refuse_values((_CHARACTER_DEVICE, _BLOCK_DEVICE))
        program += _when(number, [*_argument(mode), _step(_AND, _FILE_KIND), *kinds])
    program += _when(processor.personality, _refuse_personalities())
    program += _when(processor.unshare, _refuse_bits(_NEW_NAMESPACES | _NEW_TIME))
    # Its flags are in memory, where no filter can look. The C library then takes the older call.
    program += _when(processor.clone3, [_refuse(ENOSYS)])
    for number in processor.refused.values():
        program += _when(number, [_refuse(EPERM)])
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _refuse_families() -> list[bytes]:
    """Allow what builds use: sockets of this host, of the internet, and questions about its interfaces."""
    route_only = [*_argument(2), *_allow_values((_NETLINK_ROUTE,)), _refuse(EAFNOSUPPORT)]
    return [
        *_argument(0),
        *_allow_values((_UNIX, _INET, _INET6)),
        *_when(_NETLINK, route_only),
        _refuse(EAFNOSUPPORT),
    ]


def _refuse_personalities() -> list[bytes]:
    return [
        *_argument(0),
        *_allow_values((_ASK_PERSONALITY,)),
        _step(_HAS_BITS, ~_PERSONALITIES & 0xFFFFFFFF, skips_else=1),
        _refuse(EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _when(value: int, steps: list[bytes]) -> list[bytes]:
    """Take these steps, the last of which returns, if the loaded value is this one."""
    return [_step(_IS_EQUAL, value, skips_else=len(steps)), *steps]


def _argument(index: int) -> list[bytes]:
    """Load the lower half of an argument: the kernel itself reads no more of those that we look at."""
    return [_step(_LOAD_WORD, _ARGUMENTS + 8 * index)]


def _refuse_bits(bits: int) -> list[bytes]:
    return [*_argument(0), _step(_HAS_BITS, bits, skips_else=1), _refuse(EPERM), _step(_RETURN, _ALLOW)]


def _refuse_values(values: tuple[int, ...]) -> list[bytes]:
    return [step for value in values for step in _when(value, [_refuse(EPERM)])] + [_step(_RETURN, _ALLOW)]


def _allow_values(values: tuple[int, ...]) -> list[bytes]:
    return [step for value in values for step in _when(value, [_step(_RETURN, _ALLOW)])]


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERROR | error)


def _step(code: int, operand: int, *, skips: int = 0, skips_else: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skips, skips_else, operand)


def _kernel_has_filters() -> bool:
    """Hand the kernel a filter at no address: one that knows filters looks there, in vain."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == EFAULT
