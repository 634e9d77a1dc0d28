"""Pure rules on a job's input, kept at submission and again on the host that runs it.

Each ``check_*`` returns None for good input, else what is wrong with it, in words for the one who
sent it. Standard library only, no I/O: a host's *name* is resolved and judged where the connection
is made (`runnerlib.git`); only what can be told from the text is told here.
"""

import ipaddress
import posixpath
import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

JOB_ROOT = "/job"

MAX_COMMAND_BYTES = 64 * 1024
MAX_ENVIRONMENT_ENTRIES = 1_000
MAX_ENVIRONMENT_BYTES = 256 * 1024
MAX_LABELS = 64
MAX_ARTIFACT_GLOBS = 100
RANGES: dict[str, tuple[float, float]] = {
    "timeout_seconds": (1, 604_800),
    "queue_timeout_seconds": (1, 2_592_000),
    "silence_timeout_seconds": (1, 604_800),
    "priority": (-1_000, 1_000),
    "retry_on_lost": (0, 10),
    "source_changes": (0, 2_147_483_647),
    "cpu": (0.01, 1_024),
    "memory_mb": (16, 16_777_216),
    "pids": (4, 1_048_576),
}
"""Least and greatest value of each number in a job."""
QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHA = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})")
_CREDENTIAL_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY$|PRIVATE", re.IGNORECASE)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+=#%-]{0,254}")
_REF_FORBIDDEN = ("..", "//", "@{", "/.", ".lock/")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NUMBER = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)", re.IGNORECASE)


def has_control_characters(text: str) -> bool:
    """Tell whether ``text`` holds a C0 or C1 control character or DEL."""
    return any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in text)


def is_credential_name(name: str) -> bool:
    """Tell whether an environment variable of this name is treated as a secret."""
    return _CREDENTIAL_NAME.search(name) is not None


def is_commit_sha(ref: str) -> bool:
    """Tell whether ``ref`` is a whole commit id (SHA-1 or SHA-256, lower case)."""
    return _SHA.fullmatch(ref) is not None


def check_name(name: str) -> str | None:
    """Check the name of a job."""
    if not 1 <= len(name) <= 255 or not name.strip():
        return "must be 1 to 255 characters and not blank"
    if has_control_characters(name):
        return "must not contain control characters"
    return None


def check_command(command: str) -> str | None:
    """Check the command of a job."""
    if not command.strip() or "\0" in command:
        return "must not be blank and must not contain NUL"
    if len(command.encode(errors="surrogateescape")) > MAX_COMMAND_BYTES:
        return f"must be at most {MAX_COMMAND_BYTES} bytes"
    return None


def check_image(image: str) -> str | None:
    """Check the text of a reference to a container image."""
    return None if IMAGE.fullmatch(image) else "must be the reference of a container image"


def check_label(key: str, value: str) -> str | None:
    """Check one label."""
    if not LABEL_KEY.fullmatch(key):
        return f"label {key[:63]!r} must match {LABEL_KEY.pattern}"
    if len(value) > 255 or has_control_characters(value):
        return f"the value of label {key!r} must be at most 255 characters without control characters"
    return None


def check_artifact_glob(glob: str) -> str | None:
    """Check one pattern of files to keep."""
    if not 1 <= len(glob) <= 1_024 or has_control_characters(glob) or glob.startswith("/"):
        return "must be a relative glob of 1 to 1024 characters"
    return "must not contain '..'" if ".." in glob.split("/") else None


def check_number(name: str, value: float) -> str | None:
    """Check a number of a job against `RANGES`."""
    low, high = RANGES[name]
    return None if low <= value <= high else f"must be from {low} to {high}"


def check_env_name(name: str) -> str | None:
    """Check the name of a variable that a job brings along."""
    if len(name) > 255 or not ENV_NAME.fullmatch(name):
        return "a name is 1 to 255 letters, digits and underscores, not starting with a digit"
    if name.startswith("REACTORCIDE_"):
        return "names that start with REACTORCIDE_ are reserved for the platform"
    return None


def check_job_path(path: str) -> str | None:
    """Check an absolute directory inside ``/job``."""
    if not path or has_control_characters(path) or len(path.encode()) > 4096:
        return "must be a path of 1 to 4096 bytes without control characters"
    if not path.startswith("/"):
        return "must be absolute"
    if not is_inside(posixpath.normpath(path), JOB_ROOT):
        return f"must be {JOB_ROOT} or inside it"
    return _check_components(path)


def check_env_file_path(path: str) -> str | None:
    """Check the path of an env file: relative to the source, or absolute under ``/job``."""
    if path.startswith("/"):
        return check_job_path(path)
    if not path or has_control_characters(path) or len(path.encode()) > 4096:
        return "must be a path of 1 to 4096 bytes without control characters"
    if posixpath.normpath(path).split("/")[0] in ("..", "."):
        return "must stay inside the source"
    return _check_components(path)


def _check_components(path: str) -> str | None:
    if any(len(part.encode()) > 255 for part in path.split("/")):
        return "no component may be longer than 255 bytes"
    return None


def is_inside(path: str, root: str) -> bool:
    """Tell whether a normalised ``path`` is ``root`` or below it, by component."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def check_git_ref(ref: str) -> str | None:
    """Check a branch, tag, full ref name or commit id; the allow-list is stricter than git's."""
    if not _REF.fullmatch(ref):
        return "must be 1 to 255 of A-Z a-z 0-9 and _ . / @ + = # % - and start with a letter, digit or _"
    if any(part in ref for part in _REF_FORBIDDEN) or ref.endswith((".", "/", ".lock")):
        return "is not a well-formed ref name"
    return None


def check_git_url(
    url: str, allowed_protocols: Collection[str], allowed_hosts: Collection[str] = ()
) -> str | None:
    """Check the text of a repository's URL: protocol, shape, and an address that is written out.

    The short form ``user@host:path`` counts as ssh.
    """
    if not url or len(url) > 2048 or has_control_characters(url) or any(c.isspace() for c in url):
        return "must be a URL of 1 to 2048 characters without blanks or control characters"
    if not url.isascii():
        return "must be ASCII (write international names in their encoded form)"
    protocol, host, port, fault = split_git_url(url)
    if fault:
        return fault
    if protocol not in allowed_protocols:
        return f"protocol {protocol!r} is not allowed: use {', '.join(sorted(allowed_protocols)) or 'none'}"
    if protocol == "file":
        return None
    if is_listed_host(host, port, allowed_hosts):
        return None
    address = written_address(host)
    if address is not None and not is_public_address(address):
        return f"host {host} is not a public address and not among the allowed hosts"
    if address is None and (host == "localhost" or host.endswith((".localhost", ".local"))):
        return f"host {host} is not public and not among the allowed hosts"
    return None


def split_git_url(url: str) -> tuple[str, str, int | None, str | None]:
    """Return protocol, host, port and what is wrong with the shape of ``url`` (None: nothing)."""
    nothing = ("", "", None)
    if "://" not in url:
        head, colon, path = url.partition(":")
        user, at, host = head.rpartition("@")
        if not (colon and at and path and _USER.fullmatch(user) and _HOST.fullmatch(host)):
            return *nothing, "must be of the form https://host/path, ssh://host/path or user@host:path"
        return "ssh", host.lower(), None, _check_url_path(path)
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return *nothing, f"is not a well-formed URL: {error}"
    protocol, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if parts.query or parts.fragment:
        return *nothing, "must have no query and no fragment"
    if protocol == "file":
        return protocol, "", None, None if not parts.netloc else "a file URL must have no host"
    if parts.username is not None and not _USER.fullmatch(parts.username) and parts.password is None:
        return *nothing, "has a malformed user name"
    bare = host if ":" in host else None
    if bare is None and not _HOST.fullmatch(host):
        return *nothing, "has no host, or a malformed one"
    return protocol, host, port, _check_url_path(parts.path)


def _check_url_path(path: str) -> str | None:
    if path.lstrip("/") == "" or path.lstrip("/").startswith("-"):
        return "must name a repository, and not one that starts with a dash"
    return None


def url_credential(url: str) -> str | None:
    """Return the secret written into an http(s) URL: its password, or else its user, a token by itself.

    Of other protocols only a password is one; the user of ssh is no secret.
    """
    try:
        parts = urlsplit(url) if "://" in url else None
    except ValueError:
        # No URL at all, or one redacted already: `[REDACTED]` looks like a malformed address.
        return None
    if parts is None:
        return None
    if parts.password is not None:
        return parts.password
    return parts.username if parts.scheme.lower() in ("http", "https") else None


def redact_url(url: str) -> str:
    """Return ``url`` with the secret in it replaced."""
    if url_credential(url) is None:
        return url
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, _, host = authority.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    shown = f"{user}:[REDACTED]" if colon else "[REDACTED]"
    return f"{scheme}://{shown}@{host}{slash}{path}"


def is_listed_host(host: str, port: int | None, allowed_hosts: Collection[str]) -> bool:
    """Tell whether ``host`` (or ``host:port``) is among the operator's allowed hosts."""
    return host in allowed_hosts or (port is not None and f"{host}:{port}" in allowed_hosts)


def written_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``host`` spells, None if it is a name.

    Every form that C libraries read counts: decimal, octal, hexadecimal, and fewer than four parts.
    """
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_c_number(part) for part in parts]
    except ValueError:
        return None
    *leading, last = numbers
    if any(number > 255 for number in leading) or last >= 256 ** (5 - len(numbers)):
        return None
    value = last + sum(number << (24 - 8 * place) for place, number in enumerate(leading))
    return ipaddress.IPv4Address(value)


def _c_number(text: str) -> int:
    if text.lower().startswith("0x"):
        return int(text, 16)
    return int(text, 8) if len(text) > 1 and text.startswith("0") else int(text)


def is_public_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether ``address`` is one of the public Internet, seen through IPv6's ways to write IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public_address(inner)
    return address.is_global and not address.is_multicast


def check_copy_path(path: str, roots: Collection[str]) -> str | None:
    """Check the text of a copy source: absolute, and inside one of the host's allowed roots.

    Whether a link leads out of the root is told on the host, when the tree is opened.
    """
    if not path or has_control_characters(path) or len(path.encode()) > 4096:
        return "must be a path of 1 to 4096 bytes without control characters"
    if not path.startswith("/"):
        return "must be absolute"
    if not any(is_inside(posixpath.normpath(path), posixpath.normpath(root)) for root in roots):
        return "must be inside one of the allowed roots (COPY_SOURCE_ROOTS)"
    return _check_components(path)
