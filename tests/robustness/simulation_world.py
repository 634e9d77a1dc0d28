"""The world of the simulation: one queue of events, processes that are generators, and a bad network.

Everything random comes from one generator in the order of events, and each event runs to its end before the
next begins: so a seed is a schedule.
"""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from reactorcide.domain.errors import ReactorcideError, Unavailable
from robustness.simulation_clock import SimulatedClock


class Answering(Protocol):
    """A coordinator, as the network sees it."""

    is_frozen: bool
    held_back: list[Callable[[], Awaitable[None]]]
    """What has come while it was frozen, and is served when it thaws."""

    async def serve(self, call: "Call") -> Any:
        """Answer. Raises what the service raises, Unavailable when down, Vanished when it died over it."""


class Vanished(Exception):
    """The other end is gone without an answer."""


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Call:
    """A request to any coordinator; the process is resumed with the answer, or Unavailable."""

    what: str
    make: Callable[[Any], Awaitable[Any]]
    timeout: float = 10.0


Script: TypeAlias = Generator[Sleep | Call, Any, None]


@dataclass
class Weather:
    """How bad the network is now, as probabilities of each message."""

    loss: float = 0.0
    double: float = 0.0
    slow: float = 0.0
    slowest: float = 9.0
    cut: set[str] = field(default_factory=set)
    """Hosts that reach nobody."""


class Process:
    """What one operating system process does: scripts that die, stop and go on together."""

    def __init__(self, world: "World", host: str) -> None:
        self.host = host
        self.is_alive = True
        self._world = world
        self._is_frozen = False
        self._held_back: list[Callable[[], None]] = []

    def spawn(self, script: Script) -> None:
        self._world.after(0.0, lambda: self._step(script, None, None))

    def kill(self) -> None:
        self.is_alive = False
        self._held_back.clear()

    def freeze(self) -> None:
        self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False
        held_back, self._held_back = self._held_back, []
        for action in held_back:
            self._world.after(0.0, action)

    def _step(self, script: Script, value: Any, error: Exception | None) -> None:
        """Resume a script, and have it resumed when what it asks for has come."""
        if not self.is_alive:
            return
        if self._is_frozen:
            self._held_back.append(lambda: self._step(script, value, error))
            return
        try:
            asked = script.throw(error) if error is not None else script.send(value)
        except StopIteration:
            return
        if isinstance(asked, Sleep):
            self._world.after(asked.seconds, lambda: self._step(script, None, None))
        else:
            self._world.send(self.host, asked, lambda got, wrong: self._step(script, got, wrong))


class World:
    """Time, chance, the network and the trace of one seed."""

    def __init__(self, seed: int, clock: SimulatedClock) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = clock
        self.weather = Weather()
        self.coordinators: list[Answering] = []
        self.trace: dict[str, list[str]] = defaultdict(list)
        self.steps = 0
        self.ends: Counter[str] = Counter()
        """How many jobs ended for each reason, and in which attempt."""
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._scheduled = 0

    @property
    def now(self) -> float:
        return self.clock.now

    def note(self, about: str, text: str) -> None:
        """Write a line of the story of a job, or of a part."""
        self.trace[about].append(f"{self.now:10.3f} {text}")

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do something later; an awaitable that it returns is awaited to its end."""
        self._scheduled += 1
        heapq.heappush(self._events, (self.now + seconds, self._scheduled, action))

    async def run(self, until: float, *, is_over: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until and not is_over():
            at, _, action = heapq.heappop(self._events)
            self.steps += 1
            self.clock.turn_to(at)
            doing = action()
            if doing is not None:
                await doing
        if not is_over():
            self.clock.turn_to(until)

    def send(self, host: str, call: Call, answer: Callable[[Any, Exception | None], None]) -> None:
        """Send a request of ``host``; ``answer`` is called once, with the answer or Unavailable."""
        is_answered = False

        def once(value: Any, error: Exception | None) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                answer(value, error)

        copies = 2 if self.random.random() < self.weather.double else 1
        for _ in range(copies):
            if not self._is_lost(host):
                self.after(self._delay(), lambda: self._deliver(host, call, once))
        self.after(call.timeout, lambda: once(None, Unavailable("coordinator")))

    async def _deliver(self, host: str, call: Call, answer: Callable[[Any, Exception | None], None]) -> None:
        coordinator = self.random.choice(self.coordinators)
        if coordinator.is_frozen:
            coordinator.held_back.append(lambda: self._hand_over(coordinator, host, call, answer))
        else:
            await self._hand_over(coordinator, host, call, answer)

    async def _hand_over(
        self,
        coordinator: Answering,
        host: str,
        call: Call,
        answer: Callable[[Any, Exception | None], None],
    ) -> None:
        value, error = None, None
        try:
            value = await coordinator.serve(call)
        except Vanished:
            return
        except ReactorcideError as refusal:
            error = refusal
        if not self._is_lost(host):
            self.after(self._delay(), lambda: answer(value, error))

    def _is_lost(self, host: str) -> bool:
        return host in self.weather.cut or self.random.random() < self.weather.loss

    def _delay(self) -> float:
        if self.random.random() < self.weather.slow:
            return self.random.uniform(0.1, self.weather.slowest)
        return self.random.uniform(0.001, 0.02)
