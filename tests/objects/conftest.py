"""Buckets of one's own, on one server for all tests of a process."""

from collections.abc import Iterator

import pytest

from fakes.s3_server import S3Server
from reactorcide.objects.cloud import CloudObjectStore
from reactorcide.objects.cloud_gcs import GcsPlace, open_gcs
from reactorcide.objects.cloud_s3 import S3Place, open_s3
from reactorcide.objects.credentials import AwsKeys

SECONDS = 20.0


@pytest.fixture(scope="session")
def running_s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(running_s3_server: S3Server) -> S3Server:
    """The server, with no faults."""
    running_s3_server.meet()
    return running_s3_server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture
def s3_place(s3_server: S3Server, bucket: str) -> S3Place:
    return S3Place(bucket, endpoint=s3_server.s3_url, keys=AwsKeys("test-id", "test-secret"))


@pytest.fixture
def s3_store(s3_place: S3Place) -> CloudObjectStore:
    return open_s3(s3_place, seconds=SECONDS)


@pytest.fixture
def gcs_store(s3_server: S3Server, bucket: str) -> CloudObjectStore:
    return open_gcs(GcsPlace(bucket, emulator=s3_server.gcs_url), seconds=SECONDS)
