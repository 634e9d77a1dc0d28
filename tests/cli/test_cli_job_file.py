"""Job files: what is read, and what is refused with all its faults."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactorcide.cli.job_file import API_FIELDS, JobFileRefused, parse_job
from reactorcide.cli.submit import merge_bodies
from reactorcide.cli.yaml12 import MAX_BYTES, YamlRefused, load_yaml

WHOLE = """
name: unit tests
image: example.org/python:3
command: |
  make
  make test
environment: {LANG: C.UTF-8, DEBUG: true, LEVEL: 3}
secrets: {API: sesame}
timeout: 900
source: {type: git, url: https://example.org/x.git, ref: main}
artifacts: [dist/**]
resources: {cpu: 0.5, memory_mb: 2048, pids: 512}
network: none
queue_name: linux
"""


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(JobFileRefused) as caught:
        parse_job(text.encode())
    return caught.value.faults


def test_a_job_file_becomes_the_body_of_a_submission() -> None:
    assert parse_job(WHOLE.encode()) == {
        "name": "unit tests",
        "runner_image": "example.org/python:3",
        "job_command": "make\nmake test\n",
        "job_env_vars": {"LANG": "C.UTF-8", "DEBUG": "true", "LEVEL": "3"},
        "job_secrets": {"API": "sesame"},
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

    assert parse_job(json.dumps(told, indent="\t").encode()) == told


@pytest.mark.parametrize("field", sorted(API_FIELDS - {"job_env_vars", "job_secrets", "labels"}))
def test_every_field_of_the_api_may_be_written_as_itself(field: str) -> None:
    assert parse_job(f"{field}: x".encode()) == {field: "x"}


def test_a_local_source_is_a_copy() -> None:
    assert parse_job(b"source: {type: local, path: /srv/x}") == {
        "source_type": "copy",
        "source_path": "/srv/x",
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("comand: x", "comand: unknown key; did you mean command?"),
        ("source: {uri: x}", "source.uri: unknown key; did you mean source.url?"),
        ("source: x", "source: must be a mapping"),
        ("command: x\njob_command: y", "job_command: says again what job_command says"),
        ("environment: [A=b]", "job_env_vars: must be a mapping"),
        ("environment: {VERSION: 3.10}", "job_env_vars.VERSION: must be text: write it in quotes"),
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


def test_all_faults_are_told_at_once() -> None:
    assert len(faults_of("comand: x\nnam: y\nsource: z\n")) == 3


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(JobFileRefused, match="byte 6 is not UTF-8"):
        parse_job(b"name: \xff")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on", "on"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("0755", "0755"),
        ("1_000", "1_000"),
        ("2030-01-31", "2030-01-31"),
        ("<<", "<<"),
        (".inf", ".inf"),
        ("0o755", 0o755),
        ("0x1F", 31),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ('"true"', "true"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, meant: object) -> None:
    assert load_yaml(f"a: {written}".encode()) == {"a": meant}


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_is_read_as_json(value: Any) -> None:
    assert load_yaml(json.dumps({"value": value}).encode()) == {"value": value}


@given(st.text() | st.text("{}[]:,-!&*|>'\"# \n\tab1", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlRefused):
        load_yaml(text.encode(errors="replace"))


def test_flags_win_over_the_file_and_join_its_maps() -> None:
    told = {"name": "a", "job_env_vars": {"A": "1", "B": "1"}}

    merged = merge_bodies(told, {"name": "b", "job_env_vars": {"B": "2"}})

    assert merged == {"name": "b", "job_env_vars": {"A": "1", "B": "2"}}
