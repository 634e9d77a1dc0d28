"""AUTH-12: how often an address may be wrong about a token."""

import asyncio
import time
from collections import Counter

import httpx2
import pytest
from api_people import Api, Person, assert_problem

from reactorcide.api import rate_limits
from reactorcide.api.rate_limits import BURST, DEBT, FailureLimits, RateLimited
from reactorcide.services.accounts import _new_token

pytest_plugins = ["api_fixtures"]

FLOOD_SECONDS = 3.0


class Clock:
    """Goes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def spend(limits: FailureLimits, host: str, times: int) -> int:
    """Fail ``times`` times, and return how many of them were limited."""
    limited = 0
    for _ in range(times):
        try:
            limits.check(host, "unknown")
            limits.note_failure(host)
        except RateLimited:
            limited += 1
    return limited


async def test_auth_12_100_bad_tokens_a_second_are_429_and_valid_callers_notice_nothing(
    api: Api, person: Person
) -> None:
    flooded: Counter[int] = Counter()
    valid: Counter[int] = Counter()
    over = time.monotonic() + FLOOD_SECONDS

    async def flood() -> None:
        while time.monotonic() < over:
            headers = {"Authorization": f"Bearer {_new_token()}"}
            answer = await api.http.get("/api/v1/jobs", headers=headers)
            flooded[answer.status_code] += 1
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert_problem(answer, 429, "rate_limited")
            await asyncio.sleep(0.04)

    async def call(local_address: str) -> None:
        transport = httpx2.AsyncHTTPTransport(local_address=local_address)
        async with httpx2.AsyncClient(base_url=api.url, transport=transport) as client:
            while time.monotonic() < over:
                answer = await client.get("/api/v1/jobs", headers=person.headers)
                valid[answer.status_code] += 1
                await asyncio.sleep(0.02)

    await person.get("/api/v1/jobs")
    await asyncio.gather(*(flood() for _ in range(5)), call("127.0.0.1"), call("127.0.0.2"))

    assert set(flooded) == {401, 429}
    assert flooded[401] <= BURST + FLOOD_SECONDS * rate_limits.REFILL_PER_SECOND + 1
    assert set(valid) == {200}


async def test_a_flood_is_not_looked_up_in_the_database(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    find = api.services.accounts._find_principal

    async def count(token_hash: bytes, *, urgent: bool) -> object:
        nonlocal seen
        seen += 1
        return await find(token_hash, urgent=urgent)

    monkeypatch.setattr(api.services.accounts, "_find_principal", count)
    monkeypatch.setattr(rate_limits, "REFILL_PER_SECOND", 0.001)

    for _ in range(BURST + DEBT + 50):
        await api.http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {_new_token()}"})

    assert seen <= BURST + DEBT + 1


def test_an_address_is_forgiven_with_time() -> None:
    clock = Clock()
    limits = FailureLimits(clock)
    assert spend(limits, "192.0.2.1", BURST + 10) == 10

    clock.now += 4

    assert spend(limits, "192.0.2.1", 10) == 0


def test_a_token_that_was_good_before_is_looked_up_in_a_flood_from_its_own_address() -> None:
    limits = FailureLimits(Clock())
    limits.note_success("good")
    spend(limits, "192.0.2.1", BURST + DEBT)

    limits.check("192.0.2.1", "good")

    with pytest.raises(RateLimited):
        limits.check("192.0.2.1", "other")
    limits.check("192.0.2.2", "other")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_a_network_of_ipv6_counts_as_one_caller(one: str, other: str, is_same: bool) -> None:
    limits = FailureLimits(Clock())
    spend(limits, one, BURST)

    assert spend(limits, other, 1) == is_same


def test_the_memory_of_addresses_and_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MOST_ADDRESSES", 100)
    monkeypatch.setattr(rate_limits, "MOST_TOKENS", 100)
    limits = FailureLimits(Clock())

    for n in range(1_000):
        limits.note_failure(f"192.0.{n // 250}.{n % 250}")
        limits.note_success(f"token {n}")

    assert len(limits._buckets) == 100
    assert len(limits._known) == 100
