"""The whole product on an object store that answers nothing any more."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_product import Product, wait_until

from fakes.s3_faults import Effect, Fault, Operation
from fakes.s3_stub import S3Stub


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with S3Stub() as running:
        yield running


@pytest.fixture
def backends(stub: S3Stub) -> dict[str, str]:
    return {
        "REACTORCIDE_OBJECT_STORE_TYPE": "s3",
        "REACTORCIDE_OBJECT_STORE_BUCKET": stub.bucket,
        "AWS_ENDPOINT_URL": stub.url,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


def test_crd_07_a_service_stops_in_time_although_calls_of_its_store_hang(
    running: Product, stub: S3Stub, tmp_path: Path
) -> None:
    job_id = running.submit("echo there; echo kept > $CI_ARTIFACTS_DIR/file")
    wait_until(lambda: running.json("artifacts", "list", job_id)["artifacts"], 30)
    wait_until(lambda: "logs_object_key" in running.job(job_id), 30)
    stub.faults.add(Fault(Effect.DELAY, amount=120))
    readers = [
        running.start("artifacts", "get", job_id, "file", "-o", str(tmp_path / "got")),
        running.start("logs", job_id),
    ]
    asked = stub.calls[Operation.GET]
    wait_until(lambda: stub.calls[Operation.GET] > asked, 20)

    begun = time.monotonic()
    code = running.stop()
    took = time.monotonic() - begun
    stub.faults.heal()
    for reader in readers:
        reader.kill()
        reader.communicate()

    assert code == 0
    assert took < 20
