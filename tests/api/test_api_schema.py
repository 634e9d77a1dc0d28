"""The published schema, held against a live server by generated requests."""

import asyncio
import contextlib
from typing import Any

import schemathesis
from api_people import Api, Person, assert_problem
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytest_plugins = ["api_fixtures"]

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
EXAMPLES = 6
"""Of each operation in each mode."""


async def test_c18_generated_requests_are_answered_as_the_schema_says(api: Api, admin: Person) -> None:
    job = await admin.submit(labels={"a": "b"})
    started = await api.start_next()
    await api.write_log(started, b"hello\n")
    await api.finish(started, b"hello\n")
    document = (await api.http.get("/openapi.json")).json()

    await asyncio.to_thread(_try_all, document, api.url, admin.headers, job["job_id"])

    assert (await api.http.get("/readyz")).status_code == 200


async def test_the_schema_tells_the_problem_form_of_every_operation(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            told = {status for status in operation["responses"] if status[0] in "45"}
            assert {"400", "405", "431", "500", "503"} <= told, (method, path)
    assert not [name for name in document["components"]["schemas"] if "Validation" in name]
    operations = [
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(operations) == len(set(operations))


async def test_the_schema_of_a_submission_is_strict(api: Api, admin: Person) -> None:
    schema = (await api.http.get("/openapi.json")).json()["components"]["schemas"]["SubmitJobBody"]

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name", "source_type", "job_command"]
    assert "null" not in str(schema)
    assert_problem(await admin.post("/api/v1/jobs", {"name": "x"}), 400, "invalid_input")


@schemathesis.serializer("application/msgpack")
def _send_as_it_is(_: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


def _try_all(document: dict[str, Any], url: str, headers: dict[str, str], job_id: str) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    operations = [result.ok() for result in schema.get_all_operations()]
    # What deletes the job comes last.
    for operation in sorted(operations, key=lambda operation: operation.method.upper() == "DELETE"):
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            _try_operation(operation, mode, headers, job_id)


def _try_operation(operation: Any, mode: Any, headers: dict[str, str], job_id: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def try_one(case: Any) -> None:
        if "job_id" in case.path_parameters and mode is schemathesis.GenerationMode.POSITIVE:
            case.path_parameters["job_id"] = job_id
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=20)

    strategy = operation.as_strategy(generation_mode=mode)
    # Nothing of some operations can be negative.
    with contextlib.suppress(Unsatisfiable):
        given(case=strategy)(try_one)()
