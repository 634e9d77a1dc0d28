"""Whom a remote worker trusts, and what it means that somebody is not trusted."""

import ssl
from pathlib import Path

import httpx2

from reactorcide.domain.errors import Misconfigured


def is_loopback(url: str) -> bool:
    """Tell whether what is sent to ``url`` stays on this machine."""
    return httpx2.URL(url).host in ("127.0.0.1", "::1", "localhost")


def find_trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return what certificates are checked against: the system's, or those of ``ca_file``.

    Raises:
        Misconfigured: the file cannot be used.
    """
    if ca_file is None:
        return httpx2.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"COORDINATOR_CA_FILE: {ca_file} cannot be used: {error}") from error


def explain_distrust(error: BaseException) -> str | None:
    """Return why a certificate was refused; None: the trouble is another one."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return (
                f"its certificate was refused: {found.verify_message};"
                " COORDINATOR_CA_FILE names the authority of a private one"
            )
        found = found.__cause__ or found.__context__
    return None
