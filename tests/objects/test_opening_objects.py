"""What a program does with the settings of its object store when it starts."""

import builtins
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fakes.s3_server import Fault, S3Server
from reactorcide.config import load_settings
from reactorcide.domain.errors import Misconfigured
from reactorcide.objects.port import SignsUrls
from reactorcide.wiring.objects import OpenedObjects, open_objects

SECRET = "wJalrXUtnFEMI-not-to-be-shown"


@pytest.fixture
def environ(s3_server: S3Server, bucket: str) -> dict[str, str]:
    return {
        "OBJECT_STORE_TYPE": "s3",
        "OBJECT_STORE_BUCKET": bucket,
        "AWS_ENDPOINT_URL": s3_server.s3_url,
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }


async def opened(environ: dict[str, str], tmp_path: Path) -> OpenedObjects:
    return await open_objects(load_settings(environ).settings, tmp_path / "objects")


async def test_every_type_is_opened_and_leaves_nothing_of_its_check(
    environ: dict[str, str], s3_server: S3Server, tmp_path: Path
) -> None:
    gcs = {"OBJECT_STORE_TYPE": "gcs", "STORAGE_EMULATOR_HOST": s3_server.gcs_url.removeprefix("http://")}
    for more in ({"OBJECT_STORE_TYPE": "filesystem"}, {"OBJECT_STORE_TYPE": "memory"}, {}, gcs):
        found = await opened(environ | more, tmp_path)

        assert list(found.store.list("")) == []
        found.store.put("a", b"x")
        found.tidy()
        assert found.store.read("a") == b"x"
        assert isinstance(found.store, SignsUrls) == (more == {})
        found.store.delete("a")


async def test_keys_lie_under_the_prefix(
    environ: dict[str, str], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    found = await opened(environ | {"OBJECT_STORE_PREFIX": "team/ci"}, tmp_path)
    s3_server.meet()

    found.store.put("logs/a", b"x")

    assert s3_server.requests() == [f"PUT /{bucket}/team/ci/logs/a?"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"OBJECT_STORE_BUCKET": "no-such-bucket"}, "OBJECT_STORE_BUCKET"),
        ({"OBJECT_STORE_PREFIX": "../x"}, "OBJECT_STORE_PREFIX"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_CA_BUNDLE": "/none/ca.pem"}, "AWS_CA_BUNDLE"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "ci"},
            "AWS_SHARED_CREDENTIALS_FILE",
        ),
        (
            {"OBJECT_STORE_TYPE": "gcs", "GOOGLE_APPLICATION_CREDENTIALS": "/none"},
            "GOOGLE_APPLICATION_CREDENTIALS",
        ),
    ],
)
async def test_a_setting_that_cannot_work_is_named(
    environ: dict[str, str], tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        await opened(environ | changed, tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("PUT", "checks", 9, 403, "AccessDenied"), "s3:PutObject"),
        (Fault("GET", "checks/", 9, 403, "AccessDenied"), "s3:GetObject"),
        (Fault("GET", "list-type", 9, 403, "AccessDenied"), "s3:ListBucket"),
        (Fault("POST", "delete", 9, 403, "AccessDenied"), "s3:DeleteObject"),
        (Fault("PUT", "checks", 9, 403, "SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY"),
        (Fault("PUT", "checks", 9, 301, "PermanentRedirect"), "AWS_REGION"),
        (Fault("PUT", "checks", 9, 404), "does not speak"),
        (Fault("PUT", "checks", 9, ignores_conditions=True), "If-None-Match"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_right_that_is_missing_is_named_and_no_secret(
    environ: dict[str, str], s3_server: S3Server, tmp_path: Path, fault: Fault, words: str
) -> None:
    s3_server.meet(fault)

    with pytest.raises(Misconfigured, match=words) as refused:
        await opened(environ, tmp_path)

    assert SECRET not in str(refused.value)


async def test_a_store_out_of_reach_is_told_and_awaited(environ: dict[str, str], tmp_path: Path) -> None:
    begun = time.monotonic()

    with capture_logs() as events:
        found = await opened(environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, tmp_path)

    assert [event["event"] for event in events] == ["object_store.awaited"]
    assert "Connection refused" in events[0]["detail"]
    assert isinstance(found.store, SignsUrls)
    assert time.monotonic() - begun < 30


async def test_without_the_driver_what_to_install_is_said(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "obstore" or name.startswith("reactorcide.objects.cloud"):
            monkeypatch.delitem(sys.modules, name)
    real: Callable[..., Any] = builtins.__import__

    def without_driver(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_driver)

    with pytest.raises(Misconfigured, match=r"reactorcide\[objects\]"):
        await opened(environ, tmp_path)


def profiles(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "credentials"
    file.write_text(text)
    return {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(file)}


KEYS = "aws_access_key_id = AKPROFILE\naws_secret_access_key = se%cret\n"


@pytest.mark.parametrize(
    ("text", "profile"),
    [(f"[default]\n{KEYS}", {}), (f"[default]\n[ci]\n{KEYS}aws_session_token = t\n", {"AWS_PROFILE": "ci"})],
)
async def test_a_profile_of_the_shared_file_gives_the_keys(
    environ: dict[str, str], tmp_path: Path, text: str, profile: dict[str, str]
) -> None:
    found = await opened(environ | profiles(tmp_path, text) | profile, tmp_path)

    found.store.put("a", b"x")

    assert found.store.read("a") == b"x"
    assert isinstance(found.store, SignsUrls)
    for filename in (None, "a.txt"):
        url = found.store.signed_url("a", expires_in=timedelta(minutes=1), filename=filename)
        assert "Credential=AKPROFILE%2F" in url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[other]\n", "no profile 'default'"),
        ("[default]\nregion = x\n", "aws_access_key_id"),
        ("[default]\ncredential_process = x\n", "credential_process is not followed"),
        (f"{KEYS}[default]\n", "no file of AWS profiles"),
    ],
)
async def test_a_file_of_profiles_that_cannot_be_used_is_explained(
    environ: dict[str, str], tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(Misconfigured, match=words) as refused:
        await opened(environ | profiles(tmp_path, text), tmp_path)

    assert "se%cret" not in str(refused.value)


async def test_a_role_whose_token_is_not_there_is_explained(environ: dict[str, str], tmp_path: Path) -> None:
    role = {
        **{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/ci",
        "AWS_WEB_IDENTITY_TOKEN_FILE": os.fspath(tmp_path / "none"),
    }

    with pytest.raises(Misconfigured, match="no credentials"):
        await opened(environ | role, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"type": "service_account"}', '{"type": "unheard"}'])
async def test_a_file_that_is_no_credentials_of_google_is_named_and_not_quoted(
    environ: dict[str, str], tmp_path: Path, text: str
) -> None:
    file = tmp_path / "google.json"
    file.write_text(text)
    gcs = {"OBJECT_STORE_TYPE": "gcs", "GOOGLE_APPLICATION_CREDENTIALS": str(file)}

    with pytest.raises(Misconfigured, match="GOOGLE_APPLICATION_CREDENTIALS"):
        await opened(environ | gcs, tmp_path)
