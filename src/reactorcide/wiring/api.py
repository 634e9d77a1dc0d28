"""The API of a process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import reactorcide
from reactorcide.api.app import ApiServices, ApiSettings, create_app
from reactorcide.api.server import ApiServer, Tls
from reactorcide.domain.errors import Misconfigured
from reactorcide.objects.port import ObjectNotFound
from reactorcide.services.explaining import Explainer
from reactorcide.store.migrate import pending
from reactorcide.wiring.core import Core


@dataclass(frozen=True)
class _Probes:
    """What readiness means: every part that a request may need answers."""

    core: Core

    async def database(self) -> None:
        async with self.core.database.transaction() as tx:
            await tx.execute("SELECT 1")

    async def migrations(self) -> None:
        if names := await pending(self.core.dsn):
            raise Misconfigured(f"the database lacks {', '.join(names)}")

    async def object_store(self) -> None:
        try:
            await self.core.object_calls.run(self.core.objects.size, "probe")
        except ObjectNotFound:
            return


@asynccontextmanager
async def serving(core: Core, host: str) -> AsyncIterator[str]:
    """Answer requests, and yield the URL; leaving the block lets those in flight end, within the grace.

    Raises:
        Misconfigured: the address cannot be had, or there is no sound certificate.
    """
    settings = core.settings
    probes = _Probes(core)
    services = ApiServices(
        accounts=core.accounts,
        jobs=core.jobs,
        explainer=Explainer(core.database, core.timing),
        logs=core.log_reader,
        attempts=core.attempts,
        log_intake=core.logs,
        artifacts=core.artifacts,
        trees=core.trees,
        retention=core.retention,
        overview=core.overview,
        metrics=core.metrics,
        probes={
            "database": probes.database,
            "migrations": probes.migrations,
            "object_store": probes.object_store,
        },
    )
    app = create_app(
        services,
        ApiSettings(
            policy=core.policy,
            version=reactorcide.__version__,
            cors_origins=settings.cors_origins,
            metrics_public=settings.metrics_public,
        ),
    )
    tls = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = Tls(settings.tls_cert_file, settings.tls_key_file)
    server = ApiServer(app, host=host, port=settings.port, grace=settings.shutdown_grace, tls=tls)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()
