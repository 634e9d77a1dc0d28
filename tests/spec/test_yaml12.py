"""YAML 1.2, bounded: what is read, and as what."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerlib.spec.document import DocumentRefused, load_document


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
    assert load_document(f"a: {written}".encode()) == {"a": meant}


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_is_read_as_json(value: Any) -> None:
    assert load_document(json.dumps({"value": value}).encode()) == {"value": value}


@given(st.text() | st.text("{}[]:,-!&*|>'\"# \n\tab1", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DocumentRefused):
        load_document(text.encode(errors="replace"))


def test_the_line_of_every_key_is_told() -> None:
    lines: dict[str, int] = {}

    load_document(b"# first\na: 1\nb:\n  c: 2\n  d: [x, {e: 3}]\n", lines)

    assert lines == {"a": 2, "b": 3, "b.c": 4, "b.d": 5, "b.d.1.e": 5}
