"""What the API is given: the services it calls and the settings it goes by."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from reactorcide.api.rate_limits import FailureLimits
from reactorcide.domain.submission import SubmissionPolicy
from reactorcide.observability.metrics import Metrics
from reactorcide.services.accounts import AccountService
from reactorcide.services.artifacts import ArtifactService
from reactorcide.services.attempts import AttemptService
from reactorcide.services.explaining import Explainer
from reactorcide.services.jobs import JobService
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.overview import Overview
from reactorcide.services.retention import Retention
from reactorcide.services.trees import TreeService

Probe = Callable[[], Awaitable[None]]
"""Returns if the part is usable, else raises a `ReactorcideError` whose text may be shown."""


@dataclass(frozen=True)
class ApiServices:
    """What the routes call."""

    accounts: AccountService
    jobs: JobService
    explainer: Explainer
    logs: LogReader
    attempts: AttemptService
    log_intake: LogService
    artifacts: ArtifactService
    trees: TreeService
    retention: Retention
    overview: Overview
    metrics: Metrics
    probes: Mapping[str, Probe]
    """By the names that `/readyz` shows: `migrations`, `object_store`, and `database`, which must be."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is to stop: long waits and streams end then."""
    failures: FailureLimits = field(default_factory=FailureLimits)


@dataclass(frozen=True)
class ApiSettings:
    """What the operator decides of the API."""

    policy: SubmissionPolicy
    version: str
    cors_origins: tuple[str, ...] = ()
    metrics_public: bool = False


@dataclass(frozen=True)
class ApiParts:
    """Both, as an application carries them."""

    services: ApiServices
    settings: ApiSettings


def parts_of(request: Request) -> ApiParts:
    """Return the parts of the application that serves ``request``."""
    parts: ApiParts = request.app.state.parts
    return parts
