"""The application: routes, and what goes around them."""

from fastapi import FastAPI
from fastapi.routing import APIRoute

from reactorcide.api import (
    artifacts,
    explanations,
    health,
    jobs,
    logs,
    retention,
    tokens,
    trees,
    users,
    worker_artifacts,
    worker_routes,
    worker_trees,
    workers,
)
from reactorcide.api.middleware import CrossOrigin, LastResort, Surroundings
from reactorcide.api.openapi import install_documentation
from reactorcide.api.parts import ApiParts, ApiServices, ApiSettings, Probe
from reactorcide.api.problems import install_problem_handlers

__all__ = ["ApiServices", "ApiSettings", "Probe", "create_app"]


def create_app(services: ApiServices, settings: ApiSettings) -> FastAPI:
    """Return the application. It starts nothing and owns nothing: who made the services ends them."""
    app = FastAPI(
        title="Reactorcide",
        version=settings.version,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        telemetry={"logs": False, "operation_spans": False, "auto_configure": False},
    )
    app.state.parts = ApiParts(services, settings)
    app.state.stopping = services.stopping
    for routes in (health, jobs, explanations, logs, artifacts, trees, retention, tokens, users, workers):
        app.include_router(routes.router)
    for routes in (worker_routes, worker_artifacts, worker_trees):
        app.include_router(routes.router)
    install_documentation(app, settings.version)
    install_problem_handlers(app)
    # The outermost is added last.
    app.add_middleware(LastResort)
    app.add_middleware(CrossOrigin, origins=settings.cors_origins)
    app.add_middleware(Surroundings, metrics=services.metrics)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
