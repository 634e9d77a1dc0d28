"""The contract of every gateway: how soon logs are to come. The bench's coordinator makes a difference."""

import asyncio
from contextlib import aclosing

from contracts.gateway import (
    IDLE,
    LONG,
    SOON_SECONDS,
    GatewayBench,
    GatewayContract,
    pieces_of,
    submit,
    waits,
)
from reactorcide.domain.jobs import Claim
from reactorcide.services.log_pace import LogPace
from reactorcide.wiring.objects import log_pace


def pace_of(bench: GatewayBench) -> LogPace:
    pace = log_pace(bench.core.settings)
    assert not pace.is_even
    return pace


async def follow(bench: GatewayBench, claim: Claim) -> None:
    """Follow the log of a job until this is cancelled."""
    async with aclosing(bench.core.log_reader.follow(claim.job_id)) as news:
        async for _ in news:
            pass


class LogPaceContract(GatewayContract):
    """What a `Gateway` promises of how soon logs are to come."""

    async def test_while_nobody_follows_bytes_may_be_gathered_for_long(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()

        appended = await seat.gateway.append_log(claim, 0, b"one\n", pieces_of(b"one\n"))
        (order,) = await seat.gateway.heartbeat(seat.worker_id, [claim], IDLE)

        assert appended.pause_seconds == pace_of(bench).unwatched.total_seconds()
        assert not order.is_watched

    async def test_who_begins_to_follow_wakes_the_worker_and_is_told_of(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()
        waiting = asyncio.create_task(seat.gateway.wait_for_orders(seat.worker_id, LONG))
        await waits(waiting)
        following = asyncio.create_task(follow(bench, claim))

        is_news = await asyncio.wait_for(waiting, SOON_SECONDS)
        (order,) = await seat.gateway.heartbeat(seat.worker_id, [claim], IDLE)
        appended = await seat.gateway.append_log(claim, 0, b"one\n", pieces_of(b"one\n"))

        assert (is_news, order.order, order.is_watched) == (True, "go_on", True)
        assert appended.pause_seconds == pace_of(bench).watched.total_seconds()
        following.cancel()
        await asyncio.wait({following})
