"""The times a cluster under test works with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Lease, heartbeat, reaper, start deadline, cancel grace and lost-after, in seconds."""

    name: str
    lease: float
    heartbeat: float
    reap: float
    start_deadline: float
    grace: float
    lost_after: float

    @property
    def stuck(self) -> float:
        """So long after the loss of its worker a job may still look alive."""
        return self.lost_after + self.reap + 5

    @property
    def cancel_bound(self) -> float:
        """So long a running job may go on after its cancel was answered, with every part in reach."""
        return self.heartbeat + self.grace + 5

    def variables(self) -> dict[str, str]:
        """Return the settings of every part."""
        return {
            "LEASE": str(self.lease),
            "HEARTBEAT": str(self.heartbeat),
            "REAP_INTERVAL": str(self.reap),
            "START_DEADLINE": str(self.start_deadline),
            "CANCEL_GRACE": str(self.grace),
            "LOST_AFTER": str(self.lost_after),
        }


TEST = Profile("test", lease=15, heartbeat=5, reap=2, start_deadline=10, grace=5, lost_after=30)
FAST = Profile("fast", lease=5, heartbeat=0.5, reap=0.5, start_deadline=5, grace=1, lost_after=8)
PROFILES = {profile.name: profile for profile in (TEST, FAST)}
