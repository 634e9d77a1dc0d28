"""How S3 says things: which call a request is, XML answers, ranges and digests."""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fakes.s3_faults import Operation
from fakes.s3_shelf import Entry

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_DIGESTS: Mapping[str, Callable[[bytes], bytes]] = {
    "content-md5": lambda data: hashlib.md5(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


@dataclass(frozen=True)
class Call:
    """A request that has been understood."""

    operation: Operation
    bucket: str
    key: str
    """Of a list, its prefix."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Their names in lower case."""

    @property
    def metadata(self) -> dict[str, str]:
        """What is kept with an object beside its bytes."""
        kept = ("x-amz-meta-", "content-type", "content-disposition")
        return {name: value for name, value in self.headers.items() if name.startswith(kept)}


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    """Of an answer without its body, what is said of it."""


def read_call(method: str, target: str, headers: Mapping[str, str]) -> Call | None:
    """Return the call, in the path style; None: it is not known here."""
    address = urlsplit(target)
    bucket, _, key = unquote(address.path).lstrip("/").partition("/")
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    operation = _operation(method, query, has_key=bool(key))
    if operation is None:
        return None
    return Call(operation, bucket, key or query.get("prefix", ""), query, headers)


def _operation(method: str, query: Mapping[str, str], *, has_key: bool) -> Operation | None:
    if not has_key:
        if method == "POST" and "delete" in query:
            return Operation.DELETE_MANY
        if method == "GET" and query.get("list-type") == "2":
            return Operation.LIST
        return None
    if "uploadId" in query:
        of_uploads = {
            "PUT": Operation.PUT_PART,
            "POST": Operation.COMPLETE_UPLOAD,
            "DELETE": Operation.ABORT_UPLOAD,
        }
        return of_uploads.get(method)
    if method == "POST":
        return Operation.CREATE_UPLOAD if "uploads" in query else None
    return {
        "PUT": Operation.PUT,
        "GET": Operation.GET,
        "HEAD": Operation.HEAD,
        "DELETE": Operation.DELETE,
    }.get(method)


def check_signature(call: Call) -> Answer | None:
    """Refuse two authentications at once, and a signed URL past its time. Signatures are not checked."""
    if "X-Amz-Signature" not in call.query:
        return None
    if "authorization" in call.headers:
        return error(400, "InvalidArgument", "Only one auth mechanism allowed")
    try:
        signed_at = datetime.strptime(call.query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        kept_for = timedelta(seconds=int(call.query["X-Amz-Expires"]))
    except (KeyError, ValueError):
        return error(
            400, "AuthorizationQueryParametersError", "X-Amz-Date or X-Amz-Expires is missing or bad"
        )
    if datetime.now(UTC) > signed_at + kept_for:
        return error(403, "AccessDenied", "Request has expired")
    return None


def check_digests(headers: Mapping[str, str], body: bytes) -> Answer | None:
    """Refuse a body that is not what its headers say."""
    for name, make in _DIGESTS.items():
        if name in headers:
            try:
                told = base64.b64decode(headers[name], validate=True)
            except binascii.Error:
                return error(400, "InvalidDigest", f"{name} is not base64")
            if told != make(body):
                return error(400, "BadDigest", f"the body has another {name}")
    whole = headers.get("x-amz-content-sha256", "")
    if re.fullmatch("[0-9a-f]{64}", whole) and whole != hashlib.sha256(body).hexdigest():
        return error(400, "XAmzContentSHA256Mismatch", "the body has another SHA-256")
    return None


def error(status: int, code: str, message: str) -> Answer:
    """Return a refusal."""
    return xml(f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>", status)


def xml(text: str, status: int = 200) -> Answer:
    """Return an answer of XML."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Answer(status, body, {"Content-Type": "application/xml"})


def give_object(call: Call, entry: Entry, data: bytes | None) -> Answer:
    """Return an object or the range that is asked for; without ``data`` all but the body."""
    stamp = format_datetime(datetime.fromtimestamp(entry.modified, UTC), usegmt=True)
    etag = f'"{entry.etag}"'
    if call.headers.get("if-match", etag) not in (etag, "*"):
        return error(412, "PreconditionFailed", "The object has another ETag")
    headers = {"etag": etag, "last-modified": stamp, "accept-ranges": "bytes"}
    headers |= {"content-type": "application/octet-stream", **entry.metadata}
    for name in ("content-type", "content-disposition", "cache-control"):
        if f"response-{name}" in call.query:
            headers[name] = call.query[f"response-{name}"]
    if data is None:
        return Answer(200, b"", headers, entry.size_bytes)
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)|bytes=-(\d+)", call.headers.get("range", ""))
    if asked is None:
        return Answer(200, data, headers)
    first, last, suffix = asked.groups()
    start = max(0, len(data) - int(suffix)) if suffix else int(first)
    end = min(len(data), int(last) + 1) if last else len(data)
    if start >= end:
        refused = error(416, "InvalidRange", "The requested range is not satisfiable")
        return Answer(416, refused.body, {**refused.headers, "Content-Range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return Answer(206, data[start:end], headers)


def give_list(call: Call, found: list[tuple[str, Entry]], page_size: int) -> Answer:
    """Return a page of ``found``, which lies behind the token or key that the call names."""
    page_size = min(page_size, int(call.query.get("max-keys", page_size)))
    delimiter, prefix = call.query.get("delimiter", ""), call.key
    rows: list[str] = []
    folders: set[str] = set()
    last, is_cut = "", False
    for key, entry in found:
        rest = key[len(prefix) :]
        folder = prefix + rest.partition(delimiter)[0] + delimiter if delimiter and delimiter in rest else ""
        if folder and folder in folders:
            last = key
            continue
        if len(rows) == page_size:
            is_cut = True
            break
        if folder:
            folders.add(folder)
            rows.append(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>")
        else:
            rows.append(_list_row(key, entry))
        last = key
    token = f"<NextContinuationToken>{quote(last, safe='')}</NextContinuationToken>" if is_cut else ""
    return xml(
        f"<ListBucketResult {_NAMESPACE}><Name>{call.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
        f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>{page_size}</MaxKeys>"
        f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{''.join(rows)}</ListBucketResult>"
    )


def list_after(call: Call) -> str:
    """Return the key behind which a list begins."""
    return unquote(call.query.get("continuation-token", "")) or call.query.get("start-after", "")


def _list_row(key: str, entry: Entry) -> str:
    stamp = datetime.fromtimestamp(entry.modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified>"
        f'<ETag>"{entry.etag}"</ETag><Size>{entry.size_bytes}</Size>'
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def read_keys(body: bytes) -> list[str]:
    """Return the keys of a call that deletes many. Raises ValueError."""
    return [_text(element, "Key") for element in _parse(body) if _name(element) == "Object"]


def give_deleted(deleted: Iterable[str], failed: Iterable[str]) -> Answer:
    """Return what became of each key of a call that deletes many."""
    rows = [f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in deleted]
    rows += [
        f"<Error><Key>{escape(key)}</Key><Code>InternalError</Code><Message>told to fail</Message></Error>"
        for key in failed
    ]
    return xml(f"<DeleteResult {_NAMESPACE}>{''.join(rows)}</DeleteResult>")


def read_parts(body: bytes) -> list[tuple[int, str]]:
    """Return number and ETag of the parts that an upload is to be made of. Raises ValueError."""
    return [
        (int(_text(element, "PartNumber")), _text(element, "ETag").strip('"'))
        for element in _parse(body)
        if _name(element) == "Part"
    ]


def give_upload(call: Call, upload_id: str) -> Answer:
    """Return the id of an upload that was begun."""
    return xml(
        f"<InitiateMultipartUploadResult {_NAMESPACE}><Bucket>{call.bucket}</Bucket>"
        f"<Key>{escape(call.key)}</Key><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
    )


def give_completed(call: Call, etag: str) -> Answer:
    """Return the ETag of an object that was made of parts."""
    return xml(
        f"<CompleteMultipartUploadResult {_NAMESPACE}><Bucket>{call.bucket}</Bucket>"
        f'<Key>{escape(call.key)}</Key><ETag>"{etag}"</ETag></CompleteMultipartUploadResult>'
    )


def _parse(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, name: str) -> str:
    for child in element:
        if _name(child) == name:
            return child.text or ""
    raise ValueError(f"{_name(element)} without {name}")
