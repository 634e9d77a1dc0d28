"""What may be sent as the body of a submission, and how everything else is refused."""

import json
import time

import pytest
from api_people import JOB, Api, Person, assert_problem, pointers

pytest_plugins = ["api_fixtures"]

JOBS = "/api/v1/jobs"


@pytest.mark.parametrize(
    "content",
    [b"", b'{"name": "x"', b"hello", b"[]", b"7", b'"x"', b"null", b'{"name": "\xff"}', b"\xef\xbb\xbf{}"],
)
async def test_api_01_a_body_that_is_no_json_object_is_refused(
    api: Api, person: Person, content: bytes
) -> None:
    answer = await person.post_raw(JOBS, content)

    assert_problem(answer, 400, "invalid_input")
    assert await api.count_jobs() == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": ""},
    ],
)
async def test_api_01_another_content_type_is_refused(
    api: Api, person: Person, headers: dict[str, str]
) -> None:
    answer = await person.call("POST", JOBS, content=json.dumps(JOB).encode(), headers=headers)

    assert_problem(answer, 415, "unsupported_media_type")
    assert await api.count_jobs() == 0


async def test_the_charset_utf_8_may_be_named(person: Person) -> None:
    headers = {"Content-Type": 'application/json; charset="UTF-8"'}

    answer = await person.call("POST", JOBS, content=json.dumps(JOB).encode(), headers=headers)

    assert answer.status_code == 201


async def test_api_02_five_mebibytes_are_refused_at_once(person: Person) -> None:
    body = b'{"name": "' + b"x" * (5 * 1024 * 1024) + b'"}'

    begun = time.perf_counter()
    answer = await person.post_raw(JOBS, body)

    assert_problem(answer, 413, "too_large")
    assert time.perf_counter() - begun < 1


async def test_api_02_a_body_without_a_declared_length_is_counted_while_it_is_read(person: Person) -> None:
    async def pieces():
        for _ in range(80):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    answer = await person.call("POST", JOBS, content=pieces(), headers=headers)

    assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
async def test_api_04_deep_nesting_is_refused(person: Person, content: bytes) -> None:
    answer = await person.post_raw(JOBS, content)

    begun = time.perf_counter()
    after = await person.api.http.get("/healthz")

    assert_problem(answer, 400, "invalid_input")
    assert after.status_code == 200
    assert time.perf_counter() - begun < 0.5


async def test_nesting_of_33_is_refused_and_32_is_not_the_fault(person: Person) -> None:
    too_deep = await person.post_raw(JOBS, b'{"labels":' + b"[" * 32 + b"]" * 32 + b"}")
    deep = await person.post_raw(JOBS, b'{"labels":' + b"[" * 31 + b"]" * 31 + b"}")

    assert "nested" in assert_problem(too_deep, 400, "invalid_input")["message"]
    assert "nested" not in assert_problem(deep, 400, "invalid_input")["message"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": "a\0b"}, "/name"),
        ({"job_command": "a\0b"}, "/job_command"),
        ({"job_env_vars": {"A": "\0"}}, "/job_env_vars/A"),
        ({"job_env_vars": {"A\0": "x"}}, "/job_env_vars"),
        ({"source_type": "git", "git_url": "https://example.org/r", "git_ref": "a\0"}, "/git_ref"),
        ({"labels": {"a": "\0"}}, "/labels/a"),
        ({"artifacts": ["\0"]}, "/artifacts/0"),
    ],
)
async def test_api_06_a_nul_character_is_refused(
    api: Api, person: Person, fields: dict[str, object], pointer: str
) -> None:
    answer = await person.post(JOBS, JOB | fields)

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {pointer}
    assert await api.count_jobs() == 0


@pytest.mark.parametrize(
    "content",
    [
        b'{"name": "a", "name": "b", "source_type": "none", "job_command": "x"}',
        b'{"name": "a", "source_type": "none", "job_command": "x", "priority": NaN}',
        b'{"name": "a", "source_type": "none", "job_command": "x", "priority": Infinity}',
        b'{"name": "a", "source_type": "none", "job_command": "x", "resources": {"cpu": 1e999}}',
        b'{"name": "a", "source_type": "none", "job_command": "x", "priority": ' + b"9" * 5000 + b"}",
        b'{"name": "\\ud800", "source_type": "none", "job_command": "x"}',
        b'{"name": "a\nb", "source_type": "none", "job_command": "x"}',
    ],
)
async def test_json_that_parsers_read_differently_is_refused(
    api: Api, person: Person, content: bytes
) -> None:
    answer = await person.post_raw(JOBS, content)

    assert_problem(answer, 400, "invalid_input")
    assert await api.count_jobs() == 0


@pytest.mark.parametrize(
    "field",
    ["status", "user_id", "attempt", "exit_code", "worker_id", "lease_id", "logs_object_key", "created_at"],
)
async def test_api_09_fields_of_the_server_are_refused(api: Api, person: Person, field: str) -> None:
    answer = await person.post(JOBS, JOB | {field: "x"})

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {f"/{field}"}
    assert await api.count_jobs() == 0


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": 1}, "/name"),
        ({"name": None}, "/name"),
        ({"git_ref": None}, "/git_ref"),
        ({"job_env_vars": {"A": 1}}, "/job_env_vars/A"),
        ({"job_env_vars": []}, "/job_env_vars"),
        ({"timeout_seconds": "60"}, "/timeout_seconds"),
        ({"timeout_seconds": 60.0}, "/timeout_seconds"),
        ({"timeout_seconds": True}, "/timeout_seconds"),
        ({"artifacts": "x"}, "/artifacts"),
        ({"artifacts": [1]}, "/artifacts/0"),
        ({"resources": []}, "/resources"),
        ({"resources": {"cpu": "1"}}, "/resources/cpu"),
        ({"labels": {"a": ["b"]}}, "/labels/a"),
    ],
)
async def test_api_10_wrong_types_are_refused(
    api: Api, person: Person, fields: dict[str, object], pointer: str
) -> None:
    answer = await person.post(JOBS, JOB | fields)

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {pointer}
    assert await api.count_jobs() == 0


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\nb", "a\x1bb", "a\x9bb"])
async def test_api_11_a_bad_name_is_refused(person: Person, name: str) -> None:
    answer = await person.post(JOBS, JOB | {"name": name})

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {"/name"}


async def test_api_11_a_name_of_255_characters_is_good(person: Person) -> None:
    job = await person.submit(name="ä" * 255)

    assert job["name"] == "ä" * 255


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"source_type": "svn"}, "/source_type"),
        ({"source_type": "git"}, "/git_url"),
        ({"source_type": "copy"}, "/source_path"),
        (
            {"source_type": "git", "git_url": "https://example.org/r", "source_path": "/srv/sources"},
            "/source_path",
        ),
        ({"git_url": "https://example.org/r"}, "/git_url"),
    ],
)
async def test_api_12_a_source_that_does_not_fit_its_type_is_refused(
    person: Person, fields: dict[str, object], pointer: str
) -> None:
    answer = await person.post(JOBS, JOB | fields)

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {pointer}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("timeout_seconds", value) for value in (0, -1, 2**31, 2**63, 604_801)],
        *[("priority", value) for value in (-(2**63), 2**31, 2**63, 1001)],
    ],
)
async def test_api_13_a_number_out_of_range_is_refused_with_the_range(
    person: Person, field: str, value: int
) -> None:
    answer = await person.post(JOBS, JOB | {field: value})

    body = assert_problem(answer, 400, "invalid_input")
    assert pointers(body) == {f"/{field}"}
    assert "from" in body["errors"][0]["detail"]


async def test_api_13_half_a_second_is_no_timeout(person: Person) -> None:
    answer = await person.post(JOBS, JOB | {"timeout_seconds": 1.5})

    assert_problem(answer, 400, "invalid_input")


@pytest.mark.parametrize("name", ["", "A=B", "A\nB", "1A", "REACTORCIDE_X", "Ä", "A" * 256])
async def test_api_18_a_bad_variable_name_is_refused(person: Person, name: str) -> None:
    answer = await person.post(JOBS, JOB | {"job_env_vars": {name: "x"}})

    assert_problem(answer, 400, "invalid_input")


@pytest.mark.parametrize(
    "variables", [{f"A{n}": "" for n in range(10_000)}, {"A": "x" * (256 * 1024), "B": "y"}]
)
async def test_api_20_too_large_an_environment_is_refused(person: Person, variables: dict[str, str]) -> None:
    answer = await person.post(JOBS, JOB | {"job_env_vars": variables})

    assert_problem(answer, 400, "invalid_input")


async def test_api_21_22_values_and_commands_come_back_to_the_byte(person: Person) -> None:
    variables = {
        "A": "x\ny",
        "B": "k=v",
        "C": "'\"`$()",
        "D": " blanks \t ",
        "E": "äöü€😀",
        "F": "-n",
        "G": "",
    }
    command = "-c 'quotes' \"$(date)\" `x`\n\techo \\\n € 😀" + "x" * 60_000

    job = await person.submit(job_env_vars=variables, job_command=command)
    read = (await person.get(f"{JOBS}/{job['job_id']}")).json()

    assert read["job_env_vars"] == variables
    assert read["job_command"] == command


@pytest.mark.parametrize("field", ["code_dir", "job_dir", "job_env_file", "source_path"])
@pytest.mark.parametrize(
    "path", ["/job/../etc", "/jobs", "/job-x/y", "/srv/sources-x/y", "../../x", "/job/src/../../x"]
)
async def test_api_23_a_path_out_of_its_root_is_refused(person: Person, field: str, path: str) -> None:
    fields = {"source_type": "copy", "source_path": "/srv/sources/x", field: path}

    answer = await person.post(JOBS, JOB | fields)

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {f"/{field}"}


@pytest.mark.parametrize(
    "fields",
    [
        {"source_type": "git", "git_url": "https://example.org/" + "a/" * 50_000},
        {"source_type": "git", "git_url": "https://example.org/r", "git_ref": "a." * 50_000},
        {"queue_name": "a" * 100_000},
        {"runner_image": "a/" * 50_000},
        {"job_env_vars": {"A" * 100_000: "x"}},
        {"labels": {"a" * 100_000: "x"}},
        {"code_dir": "/job/" + "../" * 33_000},
        {"job_env_file": "a/" * 50_000},
        {"artifacts": ["*" * 100_000]},
        {"name": "\t" * 100_000},
    ],
)
async def test_api_31_long_repeats_are_refused_quickly(person: Person, fields: dict[str, object]) -> None:
    begun = time.perf_counter()
    answer = await person.post(JOBS, JOB | fields)

    assert_problem(answer, 400, "invalid_input")
    assert time.perf_counter() - begun < 0.5


async def test_every_fault_is_told_at_once(api: Api, person: Person) -> None:
    body = {
        "nmae": "x",
        "source_type": "svn",
        "job_command": 7,
        "timeout_seconds": 0,
        "resources": {"cpus": 1},
    }

    answer = await person.post(JOBS, body | {"queue_name": "UPPER"})

    told = assert_problem(answer, 400, "invalid_input")
    assert pointers(told) == {
        *(
            "/nmae",
            "/name",
            "/source_type",
            "/job_command",
            "/timeout_seconds",
            "/resources/cpus",
            "/queue_name",
        )
    }
    details = {fault["pointer"]: fault["detail"] for fault in told["errors"]}
    assert details["/nmae"].endswith("did you mean name?")
    assert details["/resources/cpus"].endswith("did you mean cpu?")
    assert await api.count_jobs() == 0


async def test_a_million_unknown_fields_get_a_short_answer(person: Person) -> None:
    answer = await person.post(JOBS, {f"f{n}": 1 for n in range(50_000)})

    assert len(answer.content) < 64 * 1024
    assert_problem(answer, 400, "invalid_input")
