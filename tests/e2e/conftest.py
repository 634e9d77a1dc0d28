"""A whole product for a test, on each pair of backends that it can stand on."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from whole_product import Product

from fakes.corndogs_process import CorndogsProcess
from fakes.s3_server import S3Server

QUEUES = ("database", "corndogs")
STORES = ("filesystem", "s3")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3."""
    with S3Server() as server:
        yield server


@pytest.fixture(params=[f"{queue}-{store}" for queue in QUEUES for store in STORES])
def backends(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of a ready queue and an object store; what they name is there while the test runs."""
    queue, store = request.param.split("-")
    settings: dict[str, str] = {}
    with ExitStack() as stack:
        if queue == "corndogs":
            settings["REACTORCIDE_CORNDOGS_BASE_URL"] = stack.enter_context(CorndogsProcess()).address
        if store == "s3":
            server: S3Server = request.getfixturevalue("s3")
            settings |= {
                "REACTORCIDE_OBJECT_STORE_TYPE": "s3",
                "REACTORCIDE_OBJECT_STORE_BUCKET": server.make_bucket(),
                "AWS_ENDPOINT_URL": server.s3_url,
                "AWS_ACCESS_KEY_ID": "somebody",
                "AWS_SECRET_ACCESS_KEY": "secret",
            }
        yield settings


@pytest.fixture
def product(tmp_path: Path, backends: dict[str, str]) -> Iterator[Product]:
    """A product that is not up yet; what a test leaves running is killed."""
    made = Product(tmp_path, dict(backends))
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.terminate()
        try:
            made.process.wait(20)
        except subprocess.TimeoutExpired:
            made.kill()
            raise


@pytest.fixture
def running(product: Product) -> Product:
    """A product that is up and ready."""
    product.up()
    return product
