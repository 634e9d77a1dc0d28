"""The thread that syncs an attempt's log ends when it is told to, whatever it is doing at that moment."""

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from runnerlib import spool as spool_module

ROUNDS = 2_000


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that rare orders of their steps come up."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def log() -> Iterator[int]:
    """A file in memory, which is synced at once."""
    descriptor = os.memfd_create("log")
    yield descriptor
    os.close(descriptor)


def write_and_finish(log: int) -> None:
    keeper = spool_module._Keeper(log, log, lambda: 0)
    for _ in range(3):
        keeper.wake()
    keeper.finish()


def test_a_log_is_finished_at_whatever_step_of_a_sync(
    log: int, hasty_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SYNC_SECONDS", 0.0)

    for number in range(ROUNDS):
        writer = threading.Thread(target=write_and_finish, args=(log,), daemon=True)
        writer.start()
        writer.join(30)

        assert not writer.is_alive(), f"round {number} hangs"
