"""What goes wrong in a simulation: one thing after the other, several at a time, until it stops and heals."""

from collections.abc import Callable

from robustness.simulation_coordinator import TIMING, Coordinator, Faults
from robustness.simulation_worker import Host
from robustness.simulation_world import Weather, World

_LOST = TIMING.lost_after.total_seconds()
_PAUSE = 5.0


class Nemesis:
    """Breaks parts at random until told to stop, and mends each after a while."""

    def __init__(
        self, world: World, hosts: list[Host], coordinators: list[Coordinator], faults: Faults
    ) -> None:
        self._world = world
        self._random = world.random
        self._hosts = hosts
        self._coordinators = coordinators
        self._faults = faults
        self._is_over = False
        self._kinds: list[Callable[[], None]] = [
            *[self._crash_worker] * 3,
            *[self._freeze_worker] * 3,
            self._drain_worker,
            *[self._cut_worker] * 2,
            *[self._crash_coordinator] * 2,
            *[self._kill_coordinator_in_a_call] * 3,
            self._freeze_coordinator,
            self._take_database,
            self._take_store,
            *[self._bring_bad_weather] * 2,
        ]
        self._next()

    async def heal(self) -> None:
        """Stop, and mend everything at once."""
        self._is_over = True
        self._world.weather = Weather()
        self._faults.is_database_down = self._faults.is_store_down = False
        self._faults.doubt = 0.0
        for coordinator in self._coordinators:
            coordinator.thaw()
            coordinator.die_never()
            if not coordinator.is_up:
                await coordinator.boot()
        for host in self._hosts:
            if host.worker is not None:
                host.worker.process.thaw()
            self._keep_alive(host)

    def _keep_alive(self, host: Host) -> None:
        """Boot what ends after the healing, too, as a supervisor does."""
        host.boot()
        self._world.after(5.0, lambda: self._keep_alive(host))

    def _next(self) -> None:
        self._world.after(self._random.expovariate(1 / _PAUSE), self._strike)

    def _strike(self) -> None:
        if not self._is_over:
            self._random.choice(self._kinds)()
            self._next()

    def _later(self, least: float, longest: float, mend: Callable[[], object]) -> None:
        """Mend after a while, unless all was mended meanwhile."""
        self._world.after(self._random.uniform(least, longest), lambda: None if self._is_over else mend())

    def _note(self, text: str) -> None:
        self._world.note("nemesis", text)

    def _crash_worker(self) -> None:
        host = self._random.choice(self._hosts)
        host.crash()
        self._later(0.1, 10.0, host.boot)

    def _freeze_worker(self) -> None:
        host = self._random.choice(self._hosts)
        if host.worker is not None:
            self._note(f"freezes {host.name}")
            host.worker.process.freeze()
            self._later(0.5, 2 * _LOST, host.worker.process.thaw)

    def _drain_worker(self) -> None:
        host = self._random.choice(self._hosts)
        if host.worker is not None:
            self._note(f"drains {host.name}")
            host.worker.drain()
            self._later(10.0, 40.0, host.boot)

    def _cut_worker(self) -> None:
        host = self._random.choice(self._hosts)
        self._note(f"cuts {host.name}")
        self._world.weather.cut.add(host.name)
        self._later(1.0, 2 * _LOST, lambda: self._world.weather.cut.discard(host.name))

    def _crash_coordinator(self) -> None:
        coordinator = self._random.choice(self._coordinators)
        if coordinator.is_up:
            coordinator.crash()
        self._bring_back(coordinator)

    def _kill_coordinator_in_a_call(self) -> None:
        coordinator = self._random.choice(self._coordinators)
        coordinator.die_after(self._random.randint(0, 12))
        self._bring_back(coordinator)

    def _bring_back(self, coordinator: Coordinator) -> None:
        async def boot() -> None:
            if not coordinator.is_up:
                await coordinator.boot()

        self._later(0.5, 12.0, boot)

    def _freeze_coordinator(self) -> None:
        coordinator = self._random.choice(self._coordinators)
        self._note(f"freezes {coordinator.name}")
        coordinator.freeze()
        self._later(1.0, _LOST, coordinator.thaw)

    def _take_database(self) -> None:
        self._note("takes the database away")
        self._faults.is_database_down = True
        self._later(1.0, 25.0, lambda: setattr(self._faults, "is_database_down", False))

    def _take_store(self) -> None:
        self._note("takes the object store away")
        self._faults.is_store_down = True
        self._later(1.0, 25.0, lambda: setattr(self._faults, "is_store_down", False))

    def _bring_bad_weather(self) -> None:
        self._note("brings bad weather")
        weather = self._world.weather
        weather.loss, weather.double = self._random.uniform(0.0, 0.4), self._random.uniform(0.0, 0.3)
        weather.slow = self._random.uniform(0.0, 0.5)
        self._faults.doubt = self._random.uniform(0.0, 0.2)
        self._later(3.0, 40.0, self._clear_up)

    def _clear_up(self) -> None:
        weather = self._world.weather
        weather.loss = weather.double = weather.slow = 0.0
        self._faults.doubt = 0.0
