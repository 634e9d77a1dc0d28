"""The object store of a process: which one the settings name, and whether it does what it has to."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from reactorcide.config import Settings
from reactorcide.domain.errors import Misconfigured
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import (
    InvalidKey,
    ObjectExists,
    ObjectNotFound,
    ObjectStore,
    StoreRefused,
    StoreUnavailable,
)
from reactorcide.objects.prefixed import prefixed
from reactorcide.services.log_pace import SWIFT, UNWATCHED_ON_CLOUDS, WATCHED_ON_CLOUDS, LogPace

if TYPE_CHECKING:
    from reactorcide.objects.cloud_gcs import GcsPlace
    from reactorcide.objects.cloud_s3 import S3Place

CHECK_SECONDS = 6.0
"""At start a store that does not answer is waited for so long, and then it is gone on without it."""

log = structlog.get_logger()


@dataclass(frozen=True)
class OpenedObjects:
    """A store, and what goes with it."""

    store: ObjectStore
    tidy: Callable[[], None]
    """Clears away what dead writers have left; raises StoreUnavailable."""


def log_pace(settings: Settings) -> LogPace:
    """Return how soon workers are to bring their logs: where each append is a put that costs, seldom."""
    is_dear = settings.object_store_type in ("s3", "gcs")
    watched = WATCHED_ON_CLOUDS if is_dear else SWIFT.watched
    usual = UNWATCHED_ON_CLOUDS if is_dear else SWIFT.unwatched
    unwatched = settings.log_flush if settings.log_flush is not None else usual
    return LogPace(max(unwatched, watched), watched)


async def open_objects(settings: Settings, objects_dir: Path, *, is_patient: bool = False) -> OpenedObjects:
    """Open the object store that the settings name, once it was seen to keep and to forget an object.

    One that is out of reach is told in the log and gone on with: what needs it fails until it answers.

    Args:
        objects_dir: of ``filesystem``, unless the settings name another one.
        is_patient: what cannot be made yet on the file system is made by a later ``tidy``.

    Raises:
        Misconfigured: an operator must change something first.
        StoreUnavailable: the directory of ``filesystem`` cannot be made or written.
    """
    opened, check = _open(settings, objects_dir, is_patient=is_patient)
    try:
        await _run_check(settings, check)
    except StoreUnavailable as error:
        log.warning("object_store.awaited", detail=error.detail)
    return opened


async def examine_bucket(settings: Settings) -> None:
    """See that the bucket that the settings name keeps and forgets an object.

    Raises:
        Misconfigured: an operator must change something first.
        StoreUnavailable: it cannot be reached.
    """
    _, check = _open(settings, settings.data_dir, is_patient=True)
    await _run_check(settings, check)


async def _run_check(settings: Settings, check: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(check)
    except StoreRefused as error:
        raise Misconfigured(f"OBJECT_STORE_TYPE={settings.object_store_type}: {error.detail}") from error


def check_disk(store: ObjectStore) -> None:
    """Put an object of no other name into a store of our own, read it, and delete it.

    Raises:
        StoreUnavailable: the disk is full, gone, or not to be written.
    """
    key, content = f"check-{secrets.token_hex(16)}", secrets.token_bytes(32)
    store.put(key, content)
    if store.read(key) != content:
        raise StoreUnavailable("it gave back other bytes than were put")
    store.delete(key)


def check_bucket(store: ObjectStore) -> None:
    """Put an object of no other name into a store, see that nothing replaces it, read, list and delete it.

    Raises:
        StoreRefused: the store lacks something that is counted on.
        StoreUnavailable: it cannot be reached.
    """
    key, content = f"checks/{secrets.token_hex(16)}", secrets.token_bytes(32)
    ends_at = time.monotonic() + CHECK_SECONDS
    try:
        _check_keeping(store, key, content, ends_at)
    except StoreRefused:
        # One that does not answer is not asked again: then the object may stay, as after a sudden death.
        with suppress(StoreUnavailable):
            store.delete(key)
        raise
    store.delete_many([key, f"{key}.none"])
    _check_in_time(ends_at)
    try:
        store.size(key)
    except ObjectNotFound:
        return
    raise StoreRefused("an object that was deleted is still there")


def _check_keeping(store: ObjectStore, key: str, content: bytes, ends_at: float) -> None:
    store.put(key, content, create_only=True)
    _check_in_time(ends_at)
    _check_create_only(store, key, content)
    _check_in_time(ends_at)
    if store.read(key, start=1) != content[1:]:
        raise StoreRefused("it gave back other bytes than were put")
    _check_in_time(ends_at)
    if key not in (info.key for info in store.list("checks/")):
        raise StoreRefused("an object that was put is not listed")
    _check_in_time(ends_at)


def _check_create_only(store: ObjectStore, key: str, content: bytes) -> None:
    try:
        store.put(key, content, create_only=True)
    except ObjectExists:
        return
    raise StoreRefused(
        "it replaces an object although it was told to create one only (If-None-Match):"
        " logs could be overwritten"
    )


def _check_in_time(ends_at: float) -> None:
    if time.monotonic() > ends_at:
        raise StoreUnavailable(f"it answers too slowly to be checked in {CHECK_SECONDS:g} s")


def _open(
    settings: Settings, objects_dir: Path, *, is_patient: bool
) -> tuple[OpenedObjects, Callable[[], None]]:
    """Return the store, and what checks it."""
    prefix = settings.object_store_prefix
    try:
        match settings.object_store_type:
            case "memory":
                memory = prefixed(MemoryObjectStore(), prefix)
                return OpenedObjects(memory, _nothing), _nothing
            case "s3" | "gcs":
                seconds = settings.object_store_seconds.total_seconds()
                store, hasty = (
                    prefixed(_open_bucket(settings, patience), prefix)
                    for patience in (seconds, min(seconds, CHECK_SECONDS))
                )
                return OpenedObjects(store, _nothing), partial(check_bucket, hasty)
        path = settings.object_store_base_path or objects_dir
        files = FilesystemObjectStore(path, is_patient=is_patient)
        store = prefixed(files, prefix)
        return OpenedObjects(store, files.tidy), partial(check_disk, store)
    except InvalidKey as error:
        raise Misconfigured(f"OBJECT_STORE_PREFIX: {error}") from error


def _open_bucket(settings: Settings, seconds: float) -> ObjectStore:
    try:
        if settings.object_store_type == "s3":
            from reactorcide.objects.cloud_s3 import open_s3

            return open_s3(_s3_place(settings), seconds=seconds)
        from reactorcide.objects.cloud_gcs import open_gcs

        return open_gcs(_gcs_place(settings), seconds=seconds)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"OBJECT_STORE_TYPE is {settings.object_store_type}, and a package that it needs is not"
            " installed: pip install 'reactorcide[objects]'"
        ) from error


def _s3_place(settings: Settings) -> "S3Place":
    from reactorcide.objects.cloud_s3 import S3Place, WebIdentity, choose_profile
    from reactorcide.objects.credentials import AwsKeys

    keys = profile = web_identity = None
    if settings.aws_access_key_id is not None and settings.aws_secret_access_key is not None:
        keys = AwsKeys(settings.aws_access_key_id, settings.aws_secret_access_key, settings.aws_session_token)
    elif settings.aws_access_key_id is not None or settings.aws_secret_access_key is not None:
        raise Misconfigured("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: one is not set")
    else:
        if settings.aws_role_arn is not None and settings.aws_web_identity_token_file is not None:
            web_identity = WebIdentity(
                settings.aws_role_arn, settings.aws_web_identity_token_file, settings.aws_role_session_name
            )
        profile = choose_profile(
            settings.aws_shared_credentials_file,
            settings.aws_profile,
            is_last_resort=web_identity is None,
        )
    return S3Place(
        settings.object_store_bucket,
        region=settings.aws_region or settings.aws_default_region,
        endpoint=settings.aws_endpoint_url_s3 or settings.aws_endpoint_url,
        ca_certificates=_read_ca(settings.aws_ca_bundle),
        keys=keys,
        profile=profile,
        web_identity=web_identity,
    )


def _gcs_place(settings: Settings) -> "GcsPlace":
    from reactorcide.objects.cloud_gcs import GcsPlace

    return GcsPlace(
        settings.object_store_bucket,
        credentials_file=settings.google_application_credentials,
        emulator=settings.storage_emulator_host,
    )


def _read_ca(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"AWS_CA_BUNDLE: {file}: {error.strerror}") from error


def _nothing() -> None:
    """Nobody leaves anything behind here that could be cleared away."""
