"""The published schemas of API and job files, and a page at `/docs` that shows the first by itself."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse, Response

from reactorcide import protocol
from reactorcide.api import contract, retention, schemas
from reactorcide.api.answers import json_answer
from reactorcide.api.artifacts import ArtifactListBody
from reactorcide.api.explanations import ExplanationBody
from reactorcide.api.trees import AskMissingBody, MissingBody, StoredBody, TreeBody
from runnerlib.spec.job_file_schema import SCHEMA_PATH, job_file_schema

DESCRIPTION = """\
Submit a job, follow its log, trust its state.

Every error is `application/problem+json` (RFC 9457): programs read `error`, people `message`; `errors` lists
every fault of an input by JSON pointer, `?parameter` or `header name`.
"""
_MODELS = (
    schemas.SubmitJobBody,
    schemas.CreateTokenBody,
    schemas.CreateUserBody,
    schemas.UpdateUserBody,
    schemas.ProblemBody,
    schemas.AliveBody,
    schemas.HealthBody,
    schemas.ReadyBody,
    schemas.JobBody,
    schemas.JobListBody,
    schemas.EventListBody,
    ExplanationBody,
    schemas.LogLineBody,
    ArtifactListBody,
    AskMissingBody,
    MissingBody,
    StoredBody,
    TreeBody,
    schemas.MintedTokenBody,
    schemas.TokenListBody,
    schemas.UserBody,
    schemas.UserListBody,
    schemas.MeBody,
    schemas.QueueListBody,
    schemas.WorkerListBody,
    *retention.MODELS,
)
_PAGE = Path(__file__).with_name("docs_page")
# Of the page at /docs alone: its own style, its own script, and the schema it asks for.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)


def install_documentation(app: FastAPI, version: str) -> None:
    """Serve the schema of ``app`` and the page that shows it."""
    made: dict[str, Any] = {}

    async def read_schema() -> Response:
        # Made once, on first use: it takes longer than any request should at start.
        if not made:
            made.update(build_schema(app, version))
        return json_answer(made)

    async def read_page() -> Response:
        return HTMLResponse(
            (_PAGE / "page.html").read_text(), headers={"Content-Security-Policy": _DOCS_POLICY}
        )

    async def read_style() -> Response:
        return Response((_PAGE / "style.css").read_text(), media_type="text/css; charset=utf-8")

    async def read_script() -> Response:
        return Response((_PAGE / "page.js").read_text(), media_type="text/javascript; charset=utf-8")

    async def read_job_file_schema() -> Response:
        return json_answer(job_file_schema())

    async def read_root() -> Response:
        links = {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "job_file": SCHEMA_PATH,
            "health": "/api/v1/health",
        }
        return json_answer({"name": "reactorcide", "version": version} | links)

    for path, route in (
        ("/openapi.json", read_schema),
        (SCHEMA_PATH, read_job_file_schema),
        ("/docs", read_page),
        ("/docs/style.css", read_style),
        ("/docs/page.js", read_script),
        ("/", read_root),
    ):
        app.add_api_route(path, route, methods=["GET"], include_in_schema=False)


def build_schema(app: FastAPI, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of ``app``."""
    document = get_openapi(
        title="Reactorcide",
        version=version,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=app.routes,
    )
    contract.add_models(document, _MODELS)
    contract.add_schemas(document, protocol.schemas)
    for methods in document["paths"].values():
        for operation in methods.values():
            # FastAPI's own form of a refused input is never sent.
            operation["responses"] = {
                status: told
                for status, told in operation["responses"].items()
                if status != "422" or "HTTPValidationError" not in str(told)
            }
            if "401" in operation["responses"]:
                operation["security"] = [{"token": []}]
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
