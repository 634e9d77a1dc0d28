"""A bucket of Amazon S3, or of a service that speaks S3."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from reactorcide.objects.cloud import (
    SigningCloudStore,
    client_options,
    large_patience,
    retry_options,
    usual_patience,
)
from reactorcide.objects.cloud_errors import Bucket, Operation
from reactorcide.objects.credentials import DEFAULT_PROFILE, AwsKeys, SharedProfile
from reactorcide.objects.presigning import presign_s3

if TYPE_CHECKING:
    from obstore.store import S3Config, S3CredentialProvider

DEFAULT_REGION = "us-east-1"
_BULK = 1000
_RIGHTS = {
    Operation.PUT: "s3:PutObject",
    Operation.GET: "s3:GetObject",
    Operation.LIST: "s3:ListBucket",
    Operation.DELETE: "s3:DeleteObject",
}
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of the shared credentials file (AWS_PROFILE),"
    " or a role of the machine"
)


@dataclass(frozen=True)
class WebIdentity:
    """A role that is taken on with a token from a file, as Kubernetes hands them out."""

    role_arn: str
    token_file: Path
    session_name: str | None = None


@dataclass(frozen=True)
class S3Place:
    """Which bucket, where, and by whose leave.

    Without ``keys``, ``profile`` and ``web_identity`` the machine is asked: its container, then the instance.
    """

    bucket: str
    region: str | None = None
    endpoint: str | None = None
    """URL of a service other than AWS; the bucket's name is put behind it."""
    ca_certificates: bytes | None = None
    keys: AwsKeys | None = None
    profile: SharedProfile | None = None
    web_identity: WebIdentity | None = None


def choose_profile(file: Path | None, profile: str | None, *, is_last_resort: bool) -> SharedProfile | None:
    """Return the profile to use: one that is named must be there, the default one may be.

    Args:
        file: None: ``~/.aws/credentials``.
        is_last_resort: use the default profile only if nothing but the machine's role is left.

    Raises:
        Misconfigured: a file or profile that was named is not there, or has no keys.
    """
    shared = SharedProfile(file or Path("~/.aws/credentials").expanduser(), profile or DEFAULT_PROFILE)
    if profile is None and file is None and not (is_last_resort and shared.is_there()):
        return None
    shared.read()
    return shared


def open_s3(place: S3Place, *, seconds: float) -> SigningCloudStore:
    """Return the store in a bucket; nothing is connected yet.

    Args:
        seconds: see `CloudObjectStore`.
    """
    region = place.region or DEFAULT_REGION
    config: S3Config = {
        "bucket": place.bucket,
        "region": region,
        # Checked by the service before it stores anything.
        "checksum_algorithm": "SHA256",
    }
    if place.endpoint is not None:
        config |= {"endpoint": place.endpoint, "virtual_hosted_style_request": False}
    config |= _credentials(place)
    provider: S3CredentialProvider | None = None if place.keys is not None else place.profile

    def client(patience: float, *, is_single: bool = False) -> S3Store:
        return S3Store(
            config=config | {"disable_bulk_delete": is_single},
            client_options=client_options(patience, place.endpoint, place.ca_certificates),
            retry_config=retry_options(patience),
            credential_provider=provider,
        )

    usual = usual_patience(seconds)
    store = client(usual)
    bucket = Bucket(
        place.bucket,
        f"S3 at {place.endpoint}" if place.endpoint else f"S3 in {region}",
        _RIGHTS,
        _CREDENTIALS,
        region,
    )

    def sign(key: str, expires_in: timedelta, filename: str | None) -> str:
        keys = place.keys or (place.profile.read() if place.profile is not None else None)
        if filename is None or keys is None:
            return obstore.sign(store, "GET", key, expires_in)
        return presign_s3(
            place.endpoint or f"https://s3.{region}.amazonaws.com",
            f"{place.bucket}/{key}",
            keys,
            region=region,
            expires_in=expires_in,
            filename=filename,
            now=datetime.now(UTC),
        )

    return SigningCloudStore(
        store,
        bucket,
        single=client(usual, is_single=True),
        large=client(large_patience(seconds)),
        bulk=_BULK,
        seconds=seconds,
        sign=sign,
    )


def _credentials(place: S3Place) -> "S3Config":
    if place.keys is not None:
        config: S3Config = {
            "access_key_id": place.keys.access_key_id,
            "secret_access_key": place.keys.secret_access_key,
        }
        if place.keys.session_token is not None:
            config["session_token"] = place.keys.session_token
        return config
    if place.profile is None and place.web_identity is not None:
        config = {
            "role_arn": place.web_identity.role_arn,
            "web_identity_token_file": str(place.web_identity.token_file),
        }
        if place.web_identity.session_name is not None:
            config["role_session_name"] = place.web_identity.session_name
        return config
    return {}
