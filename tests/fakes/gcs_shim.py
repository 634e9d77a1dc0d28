"""The XML API of Google Cloud Storage in front of a server that speaks S3: what differs is translated."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_GOOG, _AMZ = "HTTP_X_GOOG_", "HTTP_X_AMZ_"
_KEPT = ("META_", "COPY_SOURCE")
# What is behind looks whose request it is, and checks no signature.
_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)


class GcsShim:
    """A WSGI application that speaks GCS and asks ``server``, which speaks S3."""

    def __init__(self, server: Application) -> None:
        self._server = server

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        translated: Environ = {}
        for name, value in environ.items():
            if not name.startswith(_GOOG):
                translated[name] = value
            elif name == "HTTP_X_GOOG_IF_GENERATION_MATCH":
                translated["HTTP_IF_NONE_MATCH"] = "*" if value == "0" else f'"generation {value}"'
            elif name.removeprefix(_GOOG).startswith(_KEPT):
                translated[_AMZ + name.removeprefix(_GOOG)] = value
        translated["HTTP_AUTHORIZATION"] = _AUTHORIZATION
        # Its clients quote even what need not be, slashes among it, and the server looks at what was sent.
        path, mark, query = environ["REQUEST_URI"].partition("?")
        translated["REQUEST_URI"] = translated["RAW_URI"] = f"{quote(unquote(path))}{mark}{query}"

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            meta = [(name.lower().replace("x-amz-meta-", "x-goog-meta-"), value) for name, value in headers]
            return start_response(status, [*meta, ("x-goog-generation", "1")], *rest)

        return self._server(translated, start)
