"""What the published schema says of every route beyond its success: errors, queries and bodies."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reactorcide.api.problems import PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]
JsonSchema = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_MEANINGS = {
    304: "Not changed since the answer that `If-None-Match` names.",
    400: "Refused; `errors` lists every fault, and nothing was done.",
    401: "No valid token.",
    403: "Known, but not yours.",
    404: "There is no such thing.",
    405: "This address does not know the method; `Allow` lists those it knows.",
    408: "The body did not arrive in time.",
    409: "Not possible in the present state; `job_status` tells it.",
    410: "It was there, and is kept no longer; the message says why.",
    413: "The body is too large.",
    415: "The body is not sent as the type that the route takes.",
    416: "What is asked for, or sent, begins after the end of the log.",
    422: "The same `Idempotency-Key` came before with another body.",
    429: "Too many wrong tokens came from this address.",
    431: "The headers are too large.",
    500: "A bug; the log tells more under the request id.",
    503: "A part this depends on is out of reach; try again.",
}
_WITH_RETRY_AFTER = (429, 503)


class SchemaWithoutNull(GenerateJsonSchema):
    """An unset field is left out and never null, so a default of None is no part of the schema."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave the default None out."""
        made = super().default_schema(schema)
        if "default" in made and made["default"] is None:
            del made["default"]
        return made


def errors(*statuses: int) -> Responses:
    """Return the documentation of a route's errors; those that every route may answer are added."""
    return {status: _problem(status) for status in sorted({*statuses, 400, 405, 431, 500, 503})}


def caller_errors(*statuses: int) -> Responses:
    """As `errors`, for a route that asks for a caller."""
    return errors(401, 403, 429, *statuses)


def answer(description: str, model: type | None = None, **headers: str) -> dict[str, Any]:
    """Return the documentation of a success."""
    told: dict[str, Any] = {"description": description}
    if model is not None:
        told["content"] = {"application/json": {"schema": {"$ref": _SCHEMAS + model.__name__}}}
    if headers:
        told["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return told


def body_of(model: type) -> JsonSchema:
    """Return the documentation of a JSON body, for `openapi_extra`."""
    schema = {"$ref": _SCHEMAS + model.__name__}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def bytes_body(media_type: str, meaning: str) -> JsonSchema:
    """Return the documentation of a body that is not JSON."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "description": meaning, "content": content}}


def parameters(*listed: JsonSchema) -> JsonSchema:
    """Return the documentation of queries and headers, for `openapi_extra`."""
    return {"parameters": list(listed)}


def query(name: str, meaning: str, **schema: Any) -> JsonSchema:
    """Describe one query parameter."""
    return {"in": "query", "name": name, "description": meaning, "required": False, "schema": schema}


def header(name: str, meaning: str, **schema: Any) -> JsonSchema:
    """Describe one request header."""
    return {"in": "header", "name": name, "description": meaning, "required": False, "schema": schema}


def add_models(document: JsonSchema, models: Sequence[type[BaseModel]]) -> None:
    """Add the schemas of ``models`` to an OpenAPI document."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in models:
        made = model.model_json_schema(
            by_alias=True, ref_template=_SCHEMAS + "{model}", schema_generator=SchemaWithoutNull
        )
        schemas.update(made.pop("$defs", {}))
        schemas[model.__name__] = made


def add_schemas(document: JsonSchema, make: Callable[[str], dict[str, Any]]) -> None:
    """Add schemas that ``make`` returns by name, given the form of a reference; names that are there stay."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in make(_SCHEMAS + "{name}").items():
        schemas.setdefault(name, schema)


def _problem(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _SCHEMAS + "ProblemBody"}}},
    }
    if status in _WITH_RETRY_AFTER:
        told["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}}
    return told
