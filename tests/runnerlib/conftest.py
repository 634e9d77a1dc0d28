"""Attempts of a test, ended with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from attempt_runs import Attempts
from container_host import container_host, containers
from plugin_folder import PluginFolder
from runnerlib_calls import here

__all__ = ["attempts", "container_host", "containers", "here"]


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    """Starts attempts; what still runs at the end is killed."""
    made = Attempts(tmp_path)
    yield made
    made.close()


@pytest.fixture
def plugins(tmp_path: Path) -> PluginFolder:
    """An empty folder of plugins."""
    return PluginFolder(tmp_path)
