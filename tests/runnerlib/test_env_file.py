"""The grammar of env files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerlib.env_file import MOST_BYTES, MOST_VARIABLES, EnvFileInvalid, parse_env_file


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (b"", {}),
        (b"\n  \n# words\n\t# more\n", {}),
        (b"A=1\nB=2", {"A": "1", "B": "2"}),
        (b"A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        (b"\xef\xbb\xbfA=1\n", {"A": "1"}),
        (b"export A=1\nexport\tB=2\n", {"A": "1", "B": "2"}),
        (b"export=1\n", {"export": "1"}),
        (b"  A =  one two  \n", {"A": "one two"}),
        (b"A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        (b"A=x=y==\n", {"A": "x=y=="}),
        (b"A=1 # comment\nB=1#2\nC=#none\nD= # none\n", {"A": "1", "B": "1#2", "C": "", "D": ""}),
        (b"A=$HOME `id` $(id) \\n\n", {"A": "$HOME `id` $(id) \\n"}),
        (b"A='$HOME \\n \" # x' # comment\n", {"A": '$HOME \\n " # x'}),
        (b'A="a\\nb\\t\\"\\\\\\$HOME $HOME # x"  # comment\n', {"A": 'a\nb\t"\\$HOME $HOME # x'}),
        (b"A='one\ntwo'\nB=\"three\r\nfour\"\n", {"A": "one\ntwo", "B": "three\nfour"}),
        (b"A=1\nA=2\n", {"A": "2"}),
        ("A=grüße €\n".encode(), {"A": "grüße €"}),
        (b"A=it's\n", {"A": "it's"}),
        (b"_a1=x", {"_a1": "x"}),
    ],
)
def test_variables_are_read(text: bytes, variables: dict[str, str]) -> None:
    assert parse_env_file(text) == variables


@pytest.mark.parametrize(
    ("text", "line", "detail"),
    [
        (b"A=1\nwords\n", 2, "NAME=VALUE"),
        (b"=1\n", 1, "NAME=VALUE"),
        (b"1A=1\n", 1, "not starting with a digit"),
        (b"A-B=1\n", 1, "letters, digits"),
        (b"export\n", 1, "NAME=VALUE"),
        (b"A=1\nREACTORCIDE_CI=1\n", 2, "reserved"),
        (b"A='one\nB=2\n", 1, "not closed"),
        (b'\n\nA="one\\"\n', 3, "not closed"),
        (b"A='one' two\n", 1, "only a comment"),
        (b'A="\\x41"\n', 1, "escape"),
        (b"A=1\nB=\xff\n", 2, "UTF-8"),
        (b"A=1\n\nB=\x00\n", 3, "NUL"),
        (b"A='x\ny'\nB\n", 3, "NAME=VALUE"),
        (b"A=" + b"x" * MOST_BYTES, 1, "larger"),
        (b"".join(b"A%d=1\n" % number for number in range(MOST_VARIABLES + 1)), 1001, "more than 1000"),
    ],
)
def test_a_fault_is_told_with_its_line(text: bytes, line: int, detail: str) -> None:
    with pytest.raises(EnvFileInvalid, match=detail) as invalid:
        parse_env_file(text)

    assert invalid.value.line == line


def test_a_fault_shows_no_value() -> None:
    with pytest.raises(EnvFileInvalid) as invalid:
        parse_env_file(b"PASSWORD='hunter2\n")

    assert "hunter2" not in str(invalid.value)


NAMES = st.text("AZaz09_", min_size=1, max_size=8).filter(lambda name: not name[0].isdigit())
VALUES = st.text('aé \n\t"\\#$=`€\U0001f680')


@given(st.dictionaries(NAMES, VALUES))
def test_any_value_can_be_written_in_single_quotes(variables: dict[str, str]) -> None:
    text = "".join(f"{name}='{value}'\n" for name, value in variables.items())

    assert parse_env_file(text.encode()) == variables


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        variables = parse_env_file(data)
    except EnvFileInvalid as invalid:
        assert invalid.line >= 1  # noqa: PT017
    else:
        assert all("\0" not in value for value in variables.values())
