"""A bucket of Google Cloud Storage, by its XML API."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from obstore.store import GCSStore

from reactorcide.domain.errors import Misconfigured
from reactorcide.objects.cloud import (
    CloudObjectStore,
    SigningCloudStore,
    client_options,
    large_patience,
    retry_options,
    usual_patience,
)
from reactorcide.objects.cloud_errors import Bucket, Operation
from reactorcide.objects.cloud_puts import DRIVER_ERRORS
from reactorcide.objects.presigning import presign_gcs

if TYPE_CHECKING:
    from obstore.store import GCSConfig

ENDPOINT = "https://storage.googleapis.com"
_BULK = 100
"""There is no request for many: the driver sends ten at a time, and begins anew after one that failed."""
_RIGHTS = {
    Operation.PUT: "storage.objects.create (to replace: storage.objects.delete too)",
    Operation.GET: "storage.objects.get",
    Operation.LIST: "storage.objects.list",
    Operation.DELETE: "storage.objects.delete",
}
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS, or the service account of the machine"


@dataclass(frozen=True)
class ServiceAccount:
    """The account of a key file, which can sign by itself."""

    email: str
    key: rsa.RSAPrivateKey = field(repr=False)

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text, as Google checks it."""
        return self.key.sign(text, padding.PKCS1v15(), hashes.SHA256())


@dataclass(frozen=True)
class GcsPlace:
    """Which bucket, and by whose leave; without a file of credentials that of the machine."""

    bucket: str
    credentials_file: Path | None = None
    emulator: str | None = None
    """URL of a service that speaks GCS's XML API, asked without credentials."""


def read_service_account(file: Path) -> ServiceAccount | None:
    """Return the account of a file of credentials; None: it is of another kind, as a user's own are.

    Raises:
        Misconfigured: the file cannot be read, or is no file of credentials.
    """
    try:
        data = json.loads(file.read_text())
        kind = data["type"]
        if kind != "service_account":
            return None
        key = load_pem_private_key(data["private_key"].encode(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("not RSA")
        return ServiceAccount(data["client_email"], key)
    except OSError as error:
        raise Misconfigured(f"GOOGLE_APPLICATION_CREDENTIALS: {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        # The error's own text may quote the key.
        raise Misconfigured(
            f"GOOGLE_APPLICATION_CREDENTIALS: {file} is no file of credentials as Google makes them"
        ) from error


def open_gcs(place: GcsPlace, *, seconds: float) -> CloudObjectStore:
    """Return the store in a bucket, which `SignsUrls` but with an emulator; nothing is connected yet.

    Args:
        seconds: see `CloudObjectStore`.

    Raises:
        Misconfigured: the file of credentials is none.
    """
    config: GCSConfig = {"bucket": place.bucket}
    account = None
    if place.emulator is not None:
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        config["service_account_key"] = json.dumps(
            nobody | {"gcs_base_url": place.emulator, "disable_oauth": True}
        )
    elif place.credentials_file is not None:
        account = read_service_account(place.credentials_file)
        config["application_credentials"] = str(place.credentials_file)
    try:
        store, large = (
            GCSStore(
                config=config,
                client_options=client_options(patience, place.emulator),
                retry_config=retry_options(patience),
            )
            for patience in (usual_patience(seconds), large_patience(seconds))
        )
    except DRIVER_ERRORS as error:
        raise Misconfigured(
            f"GOOGLE_APPLICATION_CREDENTIALS: no credentials can be made of {place.credentials_file}"
        ) from error
    service = f"GCS at {place.emulator}" if place.emulator is not None else "Google Cloud Storage"
    bucket = Bucket(place.bucket, service, _RIGHTS, _CREDENTIALS)
    if place.emulator is not None:
        # To sign, the driver would ask Google, whoever stores the objects.
        return CloudObjectStore(store, bucket, single=store, large=large, bulk=_BULK, seconds=seconds)

    def sign(key: str, expires_in: timedelta, filename: str | None) -> str:
        if filename is None or account is None:
            return obstore.sign(store, "GET", key, expires_in)
        return presign_gcs(
            ENDPOINT,
            f"{place.bucket}/{key}",
            account.sign,
            signer=account.email,
            expires_in=expires_in,
            filename=filename,
            now=datetime.now(UTC),
        )

    return SigningCloudStore(store, bucket, single=store, large=large, bulk=_BULK, seconds=seconds, sign=sign)
