"""URLs that carry their own leave to GET one object, and the name to save it under.

The driver signs too, but only what it sends itself; a file name must be among what is signed.
"""

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import quote, urlsplit

from reactorcide.objects.credentials import AwsKeys

_UNRESERVED = "-._~"


def content_disposition(filename: str) -> str:
    """Return the header that has a browser save what comes as ``filename`` (RFC 6266)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def presign_s3(
    endpoint: str,
    path: str,
    keys: AwsKeys,
    *,
    region: str,
    expires_in: timedelta,
    filename: str,
    now: datetime,
) -> str:
    """Return a URL by AWS Signature Version 4.

    Args:
        path: bucket and key.
        now: in UTC.
    """
    more = {"X-Amz-Security-Token": keys.session_token} if keys.session_token else {}

    def sign(text: bytes, date: str) -> str:
        key = f"AWS4{keys.secret_access_key}".encode()
        for part in (date, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), hashlib.sha256)
        return hmac.digest(key, text, hashlib.sha256).hex()

    return _presign(
        endpoint,
        path,
        sign,
        family=("AWS4-HMAC-SHA256", "X-Amz", f"{region}/s3/aws4_request"),
        signer=keys.access_key_id,
        query=more | {"response-content-disposition": content_disposition(filename)},
        expires_in=expires_in,
        now=now,
    )


def presign_gcs(
    endpoint: str,
    path: str,
    sign: Callable[[bytes], bytes],
    *,
    signer: str,
    expires_in: timedelta,
    filename: str,
    now: datetime,
) -> str:
    """Return a URL by V4 of Google Cloud Storage.

    Args:
        path: bucket and key.
        sign: RSA with SHA-256 (PKCS #1 v1.5) by the key of the account ``signer``.
        now: in UTC.
    """
    return _presign(
        endpoint,
        path,
        lambda text, _: sign(text).hex(),
        family=("GOOG4-RSA-SHA256", "X-Goog", "auto/storage/goog4_request"),
        signer=signer,
        query={"response-content-disposition": content_disposition(filename)},
        expires_in=expires_in,
        now=now,
    )


def _presign(
    endpoint: str,
    path: str,
    sign: Callable[[bytes, str], str],
    *,
    family: tuple[str, str, str],
    signer: str,
    query: dict[str, str],
    expires_in: timedelta,
    now: datetime,
) -> str:
    algorithm, prefix, scope = family
    base = urlsplit(endpoint)
    date, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date}/{scope}"
    asked = query | {
        f"{prefix}-Algorithm": algorithm,
        f"{prefix}-Credential": f"{signer}/{scope}",
        f"{prefix}-Date": stamp,
        f"{prefix}-Expires": str(int(expires_in.total_seconds())),
        f"{prefix}-SignedHeaders": "host",
    }
    canonical_query = "&".join(
        f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}"
        for name, value in sorted(asked.items())
    )
    canonical_path = f"{base.path.rstrip('/')}/{quote(path, safe='/' + _UNRESERVED)}"
    request = f"GET\n{canonical_path}\n{canonical_query}\nhost:{base.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    signature = sign(f"{algorithm}\n{stamp}\n{scope}\n{digest}".encode(), date)
    return f"{base.scheme}://{base.netloc}{canonical_path}?{canonical_query}&{prefix}-Signature={signature}"
