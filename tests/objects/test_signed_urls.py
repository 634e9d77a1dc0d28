"""URLs by which others fetch objects themselves."""

import hashlib
import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from reactorcide.objects.cloud import SigningCloudStore
from reactorcide.objects.cloud_gcs import GcsPlace, open_gcs
from reactorcide.objects.credentials import AwsKeys
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.measured import measured
from reactorcide.objects.port import InvalidKey, ObjectStore, SignsUrls
from reactorcide.objects.prefixed import prefixed
from reactorcide.objects.presigning import presign_s3

FIVE_MINUTES = timedelta(minutes=5)
NAME = 'r\u00e9sum\u00e9 "1";x.txt'


def fetch(url: str) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read(), answer.headers.get("content-disposition")


@pytest.mark.parametrize("filename", [None, "report.txt", NAME])
def test_who_has_a_url_can_fetch_the_object(s3_store: SigningCloudStore, filename: str | None) -> None:
    objects = measured(prefixed(s3_store, "team/ci"), lambda *_: None)
    assert isinstance(objects, SignsUrls)
    objects.put("a b/\u00fc+&.txt", b"content")

    content, disposition = fetch(
        objects.signed_url("a b/\u00fc+&.txt", expires_in=FIVE_MINUTES, filename=filename)
    )

    assert content == b"content"
    if filename is None:
        assert disposition is None
    elif filename == NAME:
        assert disposition == (
            "attachment; filename=\"r_sum_ _1_;x.txt\"; filename*=UTF-8''r%C3%A9sum%C3%A9%20%221%22%3Bx.txt"
        )
    else:
        assert disposition == "attachment; filename=\"report.txt\"; filename*=UTF-8''report.txt"


def test_a_signature_of_s3_is_the_one_that_aws_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    url = presign_s3(
        "https://s3.eu-central-1.amazonaws.com",
        "bucket/a b/\u00fc~.txt",
        AwsKeys("AKID", "secret", "token/+="),
        region="eu-central-1",
        expires_in=FIVE_MINUTES,
        filename="r 1.txt",
        now=now,
    )
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda remove_tzinfo=True: now.replace(tzinfo=None)
    )
    theirs = AWSRequest("GET", url.partition("?")[0])
    theirs.params = {
        "response-content-disposition": parse_qs(urlsplit(url).query)["response-content-disposition"][0]
    }
    S3SigV4QueryAuth(Credentials("AKID", "secret", "token/+="), "s3", "eu-central-1", 300).add_auth(theirs)

    assert parse_qs(urlsplit(url).query) == parse_qs(urlsplit(theirs.url).query)


@pytest.fixture
def service_account(tmp_path: Path) -> tuple[Path, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65_537, 2_048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = tmp_path / "account.json"
    account = {"type": "service_account", "client_email": "ci@example.org", "private_key": text}
    file.write_text(json.dumps(account | {"private_key_id": "1", "client_id": "2"}))
    return file, key


@pytest.mark.parametrize("filename", [None, "report.txt"])
def test_a_url_of_gcs_is_signed_here_by_the_key_of_the_account(
    service_account: tuple[Path, rsa.RSAPrivateKey], filename: str | None
) -> None:
    file, key = service_account
    objects = open_gcs(GcsPlace("bucket", credentials_file=file), seconds=5)
    assert isinstance(objects, SignsUrls)

    url = urlsplit(objects.signed_url("logs/a", expires_in=FIVE_MINUTES, filename=filename))

    asked = {name: values[0] for name, values in parse_qs(url.query).items()}
    signature = bytes.fromhex(asked.pop("X-Goog-Signature"))
    unsigned = url.query.rpartition("&X-Goog-Signature=")[0]
    request = f"GET\n{url.path}\n{unsigned}\nhost:{url.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = asked["X-Goog-Credential"].partition("/")[2]
    digest = hashlib.sha256(request.encode()).hexdigest()
    signed = f"GOOG4-RSA-SHA256\n{asked['X-Goog-Date']}\n{scope}\n{digest}"
    key.public_key().verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert asked["X-Goog-Expires"] == "300"
    assert asked["X-Goog-Credential"].startswith("ci@example.org/")
    assert ("response-content-disposition" in asked) == (filename is not None)


def test_a_bad_key_is_not_signed(s3_store: SigningCloudStore) -> None:
    with pytest.raises(InvalidKey):
        s3_store.signed_url("../a", expires_in=FIVE_MINUTES)


def test_only_a_store_that_signs_is_one_that_signs_through_others(
    s3_store: ObjectStore, gcs_store: ObjectStore, tmp_path: Path
) -> None:
    def wrap(store: ObjectStore) -> ObjectStore:
        return measured(prefixed(store, "p"), lambda *_: None)

    assert isinstance(wrap(s3_store), SignsUrls)
    # An emulator has nobody to sign; the driver would ask Google.
    assert not isinstance(wrap(gcs_store), SignsUrls)
    assert not isinstance(wrap(FilesystemObjectStore(tmp_path)), SignsUrls)
