"""A whole product for a test."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_product import Product


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A product that is not up yet; what a test leaves running is killed."""
    made = Product(tmp_path)
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
