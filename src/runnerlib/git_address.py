"""Which address a git remote is reached at, judged before the connection and held for it (S8)."""

import ipaddress
import os
import shlex
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runnerlib.source_errors import SourceDenied, SourceFailed
from runnerlib.spec import HostPolicy
from runnerlib.spec.rules import is_listed_host, is_public_address, split_git_url, written_address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Remote:
    """A host that was judged, with the addresses it may be reached at."""

    protocol: str
    host: str
    port: int
    addresses: tuple[Address, ...]
    is_listed: bool

    @property
    def needs_pin(self) -> bool:
        """Whether git would ask for the host's addresses again, and might be told others."""
        return self.protocol != "file" and written_address(self.host) is None

    def http_options(self) -> dict[str, str]:
        """Return git settings that hold an http(s) connection to the judged addresses."""
        if self.protocol not in ("http", "https") or not self.needs_pin:
            return {}
        return {"http.curloptResolve": f"{self.host}:{self.port}:{','.join(map(_bracketed, self.addresses))}"}

    def ssh_command(self) -> str:
        """Return the command git shall use for ssh: nobody's settings, no question, no forwarding.

        The key is the default one of the worker's account.
        """
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "ControlPath": "none",
            "ProxyCommand": "none",
            "ConnectTimeout": "30",
            "ServerAliveInterval": "30",
        }
        if self.protocol == "ssh" and self.needs_pin:
            options |= {"HostKeyAlias": self.host, "HostName": str(self.addresses[0])}
        return shlex.join(
            ["ssh", "-F", os.devnull, *(f"-o{name}={value}" for name, value in options.items())]
        )


def judge_remote(url: str, policy: HostPolicy, check_time: Callable[[], None]) -> Remote:
    """Look up where ``url``, whose text was checked before, leads to.

    Args:
        check_time: called a few times a second while waiting; raises to give up.

    Raises:
        SourceDenied: one of its addresses is not public and the host is not listed.
        SourceFailed: the name is not known.
    """
    protocol, host, port, _ = split_git_url(url)
    if protocol == "file":
        return Remote(protocol, "", 0, (), is_listed=True)
    at_port = port or _DEFAULT_PORTS.get(protocol, 0)
    is_listed = is_listed_host(host, port, policy.git_allowed_hosts)
    written = written_address(host)
    addresses = (written,) if written else _look_up(host, at_port, check_time)
    if not is_listed and not all(map(is_public_address, addresses)):
        raise SourceDenied(
            f"host {host} has an address that is not public, and is not among the allowed hosts"
        )
    return Remote(protocol, host, at_port, addresses, is_listed)


def _look_up(host: str, port: int, check_time: Callable[[], None]) -> tuple[Address, ...]:
    # In a thread of its own: the resolver cannot be interrupted.
    answer: list[Mapping[Address, None] | OSError] = []
    thread = threading.Thread(target=lambda: answer.append(_ask(host, port)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        check_time()
    [found] = answer
    if isinstance(found, OSError):
        raise SourceFailed(
            f"the address of host {host} could not be found: {found.strerror or found}"
        ) from found
    return tuple(found)


def _ask(host: str, port: int) -> Mapping[Address, None] | OSError:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    return {ipaddress.ip_address(str(answer[4][0]).partition("%")[0]): None for answer in answers}


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
