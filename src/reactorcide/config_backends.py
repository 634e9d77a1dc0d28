"""Settings of what the program stands on: the ready queue, the object store, and how long things are kept."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from reactorcide.config_values import (
    corndogs_seeds,
    flag,
    integer,
    one_of,
    path,
    seconds,
    service_url,
    setting,
    text,
)

_YEARS = 315_360_000
_MOST_BYTES = 2**60


@dataclass(frozen=True)
class BackendSettings:
    """Part of the program's settings."""

    corndogs_base_url: tuple[str, ...] = setting(
        (), corndogs_seeds, "addresses of one Corndogs service; unset: the jobs' rows are the queue"
    )
    corndogs_api_key: str | None = setting(None, text, "passed on with every call of it", secret=True)
    corndogs_ca_file: Path | None = setting(
        None, path, "certificates (PEM) to trust instead of the system's, for tls:// and grpcs://"
    )
    corndogs_call_seconds: timedelta = setting(
        timedelta(seconds=5), seconds(0.1, 60), "a call that takes longer has failed"
    )
    object_store_type: str = setting(
        "filesystem", one_of("filesystem", "memory", "s3", "gcs"), "where logs and artifacts go"
    )
    object_store_base_path: Path | None = setting(
        None, path, "of filesystem; unset: DATA_DIR/objects for up, ./objects for serve"
    )
    object_store_bucket: str = setting("reactorcide-objects", text, "of s3 and gcs")
    object_store_prefix: str = setting("reactorcide/", text, "put before every key")
    object_store_seconds: timedelta = setting(
        timedelta(seconds=30), seconds(1, 600), "a call of s3 or gcs, its retries included, may take so long"
    )
    object_store_redirect: bool = setting(
        False, flag, "let clients fetch artifacts from s3 or gcs itself, by URLs signed for some minutes"
    )
    aws_access_key_id: str | None = setting(None, text, "of s3", secret=True)
    aws_secret_access_key: str | None = setting(None, text, "of s3", secret=True)
    aws_session_token: str | None = setting(None, text, "of s3, with temporary keys", secret=True)
    aws_profile: str | None = setting(None, text, "of the shared credentials file, for s3")
    aws_shared_credentials_file: Path | None = setting(None, path, "unset: ~/.aws/credentials")
    aws_region: str | None = setting(None, text, "of the bucket; unset: AWS_DEFAULT_REGION, then us-east-1")
    aws_default_region: str | None = setting(None, text, "where AWS_REGION is unset")
    aws_endpoint_url: str | None = setting(None, service_url, "of a service that speaks S3, instead of AWS")
    aws_endpoint_url_s3: str | None = setting(None, service_url, "as AWS_ENDPOINT_URL, and wins over it")
    aws_ca_bundle: Path | None = setting(
        None, path, "certificates (PEM) to trust beside the system's, for s3 behind https"
    )
    aws_role_arn: str | None = setting(None, text, "role of s3, with AWS_WEB_IDENTITY_TOKEN_FILE")
    aws_web_identity_token_file: Path | None = setting(
        None, path, "token by which the role is taken on, as Kubernetes mounts it"
    )
    aws_role_session_name: str | None = setting(None, text, "under which the role appears in AWS's logs")
    google_application_credentials: Path | None = setting(
        None, path, "service account key or other credentials (JSON) for gcs; unset: those of the machine"
    )
    storage_emulator_host: str | None = setting(
        None, service_url, "of a service that speaks GCS's XML API, asked without credentials"
    )
    job_retention: timedelta | None = setting(
        None, seconds(60, _YEARS), "ended jobs are deleted so long after their end; unset: never"
    )
    log_retention: timedelta | None = setting(
        None, seconds(60, _YEARS), "logs of ended jobs are deleted so long after the end; unset: with the job"
    )
    log_retention_bytes: int | None = setting(
        None, integer(0, _MOST_BYTES), "logs of ended jobs, together; the oldest go first; unset: no limit"
    )
    artifact_retention: timedelta | None = setting(
        None, seconds(60, _YEARS), "artifacts are deleted so long after their job's end; unset: with the job"
    )
    artifact_retention_bytes: int | None = setting(
        None, integer(0, _MOST_BYTES), "as LOG_RETENTION_BYTES, of artifacts"
    )
    retention_dry_run: bool = setting(
        False, flag, "only tell what retention and the search for orphans would delete"
    )
    removal_retention: timedelta = setting(
        timedelta(days=365), seconds(3_600, _YEARS), "the record of what was deleted is kept so long"
    )
    retention_interval: timedelta = setting(
        timedelta(seconds=300), seconds(1, 86_400), "between two rounds of retention"
    )
    orphan_interval: timedelta = setting(
        timedelta(days=1),
        seconds(10, 2_592_000),
        "between two searches for objects without a job and jobs without their objects",
    )
    log_flush: timedelta | None = setting(
        None, seconds(0, 60), "a log that nobody follows is sent so often; unset: 0.1, with s3 and gcs 5"
    )
