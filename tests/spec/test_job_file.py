"""Job files: what is read, what is refused with all its faults, and the schema that says the same."""

import contextlib
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactorcide.domain.submission import JobRequest
from runnerlib.spec.document import MAX_BYTES
from runnerlib.spec.job_file import JobFile, JobFileRefused, parse_job_file
from runnerlib.spec.job_file_schema import FIELDS, job_file_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "job-file.schema.json"
TREE_FIELDS = ("source_tree", "source_commit", "source_changes")
WHOLE = """
name: unit tests
image: example.org/python:3
command: |
  make
  make test
environment: {LANG: C.UTF-8, DEBUG: true, LEVEL: 3}
secrets: {API: sesame, MINE: }
timeout: 900
source: {type: git, url: https://example.org/x.git, ref: main}
artifacts: [dist/**]
resources: {cpu: 0.5, memory_mb: 2048, pids: 512}
network: none
plugins: [timer]
queue_name: linux
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(JobFileRefused) as caught:
        parse_job_file(text.encode())
    return [str(fault) for fault in caught.value.faults]


def test_a_job_file_is_read_whole() -> None:
    job = parse_job_file(WHOLE.encode())

    assert job.missing_secrets() == ("MINE",)
    assert job.plugins == ("timer",)
    assert job.as_submission() == {
        "name": "unit tests",
        "runner_image": "example.org/python:3",
        "job_command": "make\nmake test\n",
        "job_env_vars": {"LANG": "C.UTF-8", "DEBUG": "true", "LEVEL": "3"},
        "job_secrets": {"API": "sesame", "MINE": None},
        "timeout_seconds": 900,
        "source_type": "git",
        "git_url": "https://example.org/x.git",
        "git_ref": "main",
        "artifacts": ["dist/**"],
        "resources": {"cpu": 0.5, "memory_mb": 2048, "pids": 512},
        "network": "none",
        "queue_name": "linux",
    }


def test_json_says_the_same_also_with_tabs() -> None:
    told = {"name": "n", "job_command": "c", "labels": {"a": "b"}}

    assert parse_job_file(json.dumps(told, indent="\t").encode()).as_submission() == told


def test_every_field_of_a_submission_may_be_written_as_itself() -> None:
    names = {entry.name for entry in fields(JobRequest)}

    # A tree is what a client has uploaded: no file names one.
    assert {name for name in names if name not in TREE_FIELDS} <= FIELDS.keys()
    assert {entry.name for entry in fields(JobFile)} == set(FIELDS.values())


@pytest.mark.parametrize("text", ['{"command": "x"}', "command: x"])
def test_a_mark_of_byte_order_is_no_part_of_a_file(text: str) -> None:
    assert parse_job_file(b"\xef\xbb\xbf" + text.encode()) == JobFile(job_command="x")


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(st.characters()), inner, max_size=4)
        ),
    ).map(json.dumps)
)
def test_whatever_comes_is_read_or_refused(told: str | bytes) -> None:
    data = told if isinstance(told, bytes) else told.encode(errors="surrogatepass")

    with contextlib.suppress(JobFileRefused):
        json.dumps(parse_job_file(data).as_submission()).encode()


def test_a_local_source_is_a_copy() -> None:
    job = parse_job_file(b"source: {type: local, path: ../x}")

    assert job == JobFile(source_type="copy", source_path="../x")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("comand: x", "line 1: comand: unknown key; did you mean command?"),
        ("\nsource: {uri: x}", "line 2: source.uri: unknown key; did you mean source.url?"),
        ("source: x", "source: must be a mapping"),
        ("source: {type: svn}", "source.type: must be one of git, copy, local, none"),
        ("command: x\njob_command: y", "job_command: says again what job_command says"),
        ("command: ' '", "command: must not be blank"),
        ("command: [x]", "command: must be text"),
        ("environment: [A=b]", "environment: must be a mapping"),
        ("environment: {VERSION: 3.10}", "environment.VERSION: must be text: write it in quotes"),
        ("environment: {REACTORCIDE_X: y}", "environment.REACTORCIDE_X: the name: must be letters"),
        ("environment: {9: y}", "a key must be text"),
        ("secrets: {A: [x]}", "secrets.A: must be text"),
        ("timeout: 0", "timeout: must be from 1 to 604800"),
        ("timeout: soon", "timeout: must be a whole number"),
        ("timeout: 1.5", "timeout: must be a whole number"),
        ("resources: {gpu: 1}", "resources.gpu: unknown key; did you mean resources.cpu?"),
        ("resources: {cpu: 0}", "resources.cpu: must be from 0.01 to 1024"),
        ("network: host", "network: must be one of default, none"),
        ("artifacts: [../x]", "artifacts.0: must not contain '..'"),
        ("artifacts: x", "artifacts: must be a list"),
        ("code_dir: /jobs", "code_dir: must match"),
        ("code_dir: /job/../etc", "code_dir: must be /job or inside it"),
        ("source: {url: https://example.org/x, ref: --upload-pack=x}", "source.ref: must be 1 to 255 of"),
        ("source: {url: -oProxyCommand=x}", "source.url: must be of the form"),
        ("image: --privileged", "image: must match"),
        ("labels: {-a: b}", "labels.-a: the name: must match"),
        ("- a", "must be a mapping"),
        ("name: a\nname: b", "line 2, column 1: key 'name' comes twice"),
        ('{"name": "a", "name": "b"}', "key 'name' comes twice"),
        ("true: x", "a key must be text"),
        ("name: &a x\ncommand: *a", "anchors and aliases are not allowed"),
        ("name: !!python/object/apply:os.system [id]", "tags are not allowed"),
        ("name: !!binary aGk=", "tags are not allowed"),
        ("name: a\n---\nname: b", "only one document is allowed"),
        ("name: [", "line 2, column 1"),
        ("name: 1e999", "a number is too large"),
        ('{"timeout": NaN}', "NaN is not a number of JSON"),
        ('{"timeout": 1e999}', "a number is too large"),
        ('{"timeout": ' + "9" * 5000 + "}", "a number is too large"),
        ('{"command": "\\ud800"}', "command: a text holds NUL or half a surrogate pair"),
        ('{"environment": {"A": "x\\u0000"}}', "environment.A: a text holds NUL"),
        ('{"artifacts": ["\\udfff"]}', "artifacts.0: a text holds NUL or half"),
        ('{"\\ud800": 1}', "a key: a text holds NUL or half a surrogate pair"),
        ('name: "\\0"', "name: a text holds NUL"),
        ('labels: {a: "x\\ny"}', "labels.a: the value of label 'a' must be at most 255 characters without"),
        ("labels: {a: " + "x" * 256 + "}", "labels.a: must have 0 to 255 characters"),
        ("", "is empty"),
        ("x: " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ('{"x": ' + "[" * 40 + "]" * 40 + "}", "nested deeper than 32"),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 32"),
        ("x: [" + "1," * 100_001 + "]", "more than 100000 values"),
        ("x: " + "a" * MAX_BYTES, "more than 1048576 bytes"),
    ],
)
def test_a_faulty_file_is_refused_with_the_place_of_its_fault(text: str, fault: str) -> None:
    assert any(fault in told for told in faults_of(text)), faults_of(text)


def test_a_key_is_told_short_and_inert() -> None:
    told = faults_of(json.dumps({"\x1b]0;title\x07" + "x" * 10_000: 1}))[0]

    assert told.isprintable()
    assert len(told) < 300


def test_all_faults_are_told_at_once() -> None:
    assert len(faults_of("comand: x\nnam: y\nsource: z\ntimeout: 0\n")) == 4


def test_the_reader_of_yaml_is_loaded_for_yaml_only() -> None:
    program = (
        "import sys; from runnerlib.spec.job_file import parse_job_file;"
        "parse_job_file(b'{\"command\": \"x\"}'); print('yaml' in sys.modules);"
        "parse_job_file(b'command: x'); print('yaml' in sys.modules)"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30)

    assert told.stdout.split() == [b"False", b"True"]


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(JobFileRefused, match="byte 6 is not UTF-8"):
        parse_job_file(b"name: \xff")


def test_a_value_of_a_secret_is_in_no_fault() -> None:
    told = "".join(faults_of("secrets: {A: 'swordfish\\0', B: [swordfish], 9A: swordfish}"))

    assert "swordfish" not in told


def test_the_schema_is_one_and_is_published() -> None:
    schema = job_file_schema()

    jsonschema_rs.meta.validate(schema)
    assert json.loads(PUBLISHED.read_text()) == schema, "rewrite it: python -m runnerlib.spec.job_file_schema"


def test_the_published_schema_is_what_the_command_writes() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "runnerlib.spec.job_file_schema"], capture_output=True, check=True, timeout=30
    )

    assert written.stdout == PUBLISHED.read_bytes()


values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 700_000),
    st.floats(-1, 2000, allow_nan=False),
    st.sampled_from(["", "x", "git", "local", "none", "default", "/job/a", "/etc", "main", "linux", "A B"]),
    st.lists(st.sampled_from(["x", "", "dist/**", 3]), max_size=2),
    st.dictionaries(
        st.sampled_from(["A", "REACTORCIDE_B", "type", "cpu", "memory_mb", "path", "9"]),
        st.sampled_from(["x", "1", 1, 0.5, True, None, [], "none"]),
        max_size=3,
    ),
)
KEYS = sorted(key for key in FIELDS if "." not in key)


@given(st.dictionaries(st.sampled_from([*KEYS, "source", "nonsense"]), values, max_size=4))
def test_what_the_schema_refuses_the_reader_refuses(told: dict[str, Any]) -> None:
    is_valid = jsonschema_rs.validator_for(job_file_schema()).is_valid(told)

    refused = {key.split(".")[-1] for key in faulty_keys(json.dumps(told).encode())}

    assert bool(refused) >= (not is_valid)
    assert not is_valid or refused <= BEYOND


SAMPLES: dict[str, Any] = {
    "job_command": "x",
    "job_env_vars": {},
    "job_secrets": {},
    "runner_image": "x",
    "timeout_seconds": 1,
    "silence_timeout_seconds": 1,
    "queue_timeout_seconds": 1,
    "queue_name": "x",
    "job_env_file": "x",
    "source_type": "none",
    "git_url": "https://example.org/x",
    "git_ref": "x",
    "source_path": "x",
}
TWICE = [(key, field) for key, field in FIELDS.items() if key != field]


@pytest.mark.parametrize(("key", "field"), TWICE)
@pytest.mark.parametrize("is_short_null", [True, False])
@pytest.mark.parametrize("is_field_null", [True, False])
def test_schema_and_reader_refuse_what_is_said_twice_and_only_that(
    key: str, field: str, is_short_null: bool, is_field_null: bool
) -> None:
    told: dict[str, Any] = {field: None if is_field_null else SAMPLES[field]}
    inner = told.setdefault("source", {}) if key.startswith("source.") else told
    inner[key.removeprefix("source.")] = None if is_short_null else SAMPLES[field]

    is_valid = jsonschema_rs.validator_for(job_file_schema()).is_valid(told)

    assert is_valid == (is_short_null or is_field_null)
    assert is_valid == (not faulty_keys(json.dumps(told).encode()))


def test_every_key_has_a_title_and_says_what_it_is_for() -> None:
    schema = job_file_schema()
    source = schema["properties"]["source"]["anyOf"][0]["properties"]

    for name, told in (schema["properties"] | source).items():
        assert told["title"], name
        assert told["description"].endswith("."), name


def faulty_keys(data: bytes) -> list[str]:
    try:
        parse_job_file(data)
    except JobFileRefused as error:
        return [fault.field for fault in error.faults]
    return []


BEYOND = {"code_dir", "job_dir", "ref", "url", "git_ref", "git_url", "command", "job_command", "name"} | {
    "job_env_file",
    "env_file",
}
"""Keys whose texts are judged by more than the schema can say."""


ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "jobs").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_job_and_tells_editors_where_the_schema_is(path: Path) -> None:
    told = path.read_text()

    job = parse_job_file(path.read_bytes())

    assert job.job_command
    assert (path.parent / "../../docs/job-file.schema.json").resolve() == PUBLISHED
    assert "../../docs/job-file.schema.json" in told[:200]


def test_the_page_on_job_files_tells_every_key() -> None:
    page = (ROOT / "docs" / "job-files.md").read_text()

    rows = {
        tuple(cell.strip().strip("`") for cell in line.split("|")[1:3])
        for line in page.splitlines()
        if line.startswith("| `")
    }
    told = {name for row in rows for name in row if name}

    assert told == set(FIELDS)
