"""Fetching what a coordinator sends its clients elsewhere for: from the object store, by a signed address.

The address alone opens it. No token of ours goes there, and no message repeats the address.
"""

import re
from collections.abc import Iterator

import httpx2

from reactorcide import __version__
from reactorcide.cli.errors import AnswerNotUnderstood, CommandFailed, StoreUnreachable

RANGE_NOT_SATISFIABLE = 416
"""The name of this status differs between versions of httpx2."""
_ANSWER_SECONDS = 30.0
_MAX_REDIRECTS = 3
_MAX_REFUSAL_BYTES = 4096
_GONE = (httpx2.codes.NOT_FOUND, httpx2.codes.GONE)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")


class StoredFiles:
    """Connections to object stores. Close it at the end."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx2.Client] = {}

    def close(self) -> None:
        """Give the connections back."""
        for client in self._clients.values():
            client.close()

    def read(self, address: str, *, start: int = 0) -> Iterator[bytes]:
        """Yield what lies there from the byte ``start`` on. One try: the reader knows how far it came.

        Raises:
            StoreUnreachable: the connection failed, now or while it was read, or the store said "not now".
            CommandFailed: it is not there, or cannot be had so.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = _read_address(address)
        host = url.netloc.decode()
        try:
            with self._client(url.host).stream("GET", url, headers=headers) as response:
                if start and response.status_code == RANGE_NOT_SATISFIABLE:
                    return
                if response.status_code != (httpx2.codes.PARTIAL_CONTENT if start else httpx2.codes.OK):
                    raise _refusal(host, response)
                yield from response.iter_raw()
        except (httpx2.TransportError, httpx2.TooManyRedirects) as error:
            raise StoreUnreachable(
                f"the object store at {host} broke off: {type(error).__name__}",
                "the coordinator lets its clients fetch from there (OBJECT_STORE_REDIRECT)",
            ) from error

    def _client(self, host: str) -> httpx2.Client:
        # A proxy of the environment is not for this machine.
        is_local = host in _LOOPBACK
        if is_local not in self._clients:
            self._clients[is_local] = httpx2.Client(
                headers={"User-Agent": f"reactorcide/{__version__}", "Accept-Encoding": "identity"},
                timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=5.0),
                follow_redirects=True,
                max_redirects=_MAX_REDIRECTS,
                trust_env=not is_local,
            )
        return self._clients[is_local]


def _read_address(address: str) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise AnswerNotUnderstood("the coordinator sends its clients to an address that is none") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise AnswerNotUnderstood("the coordinator sends its clients to an address that is none")
    return url


def _refusal(host: str, response: httpx2.Response) -> CommandFailed:
    """Return what a status other than success means."""
    if response.status_code in _GONE:
        return CommandFailed(f"the object store at {host} does not have it any more")
    if response.is_success:
        return CommandFailed(f"the object store at {host} gives no ranges")
    head = b""
    for piece in response.iter_raw():
        head += piece
        if len(head) >= _MAX_REFUSAL_BYTES:
            break
    code = _CODE.search(head[:_MAX_REFUSAL_BYTES])
    said = f" ({code[1].decode()})" if code else ""
    return StoreUnreachable(f"the object store at {host} refuses it with status {response.status_code}{said}")
