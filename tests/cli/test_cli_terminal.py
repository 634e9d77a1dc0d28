"""What of foreign text reaches a terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactorcide.cli.terminal import TerminalFilter, show_inert

HOSTILE = {
    "OSC 52 writes the clipboard": b"\x1b]52;c;ZXZpbA==\x07",
    "OSC 8 is a link": b"\x1b]8;;http://evil.example\x1b\\text\x1b]8;;\x1b\\",
    "OSC 0 sets the title": b"\x1b]0;title\x07",
    "clear screen": b"\x1b[2J\x1b[H",
    "DCS": b"\x1bPq#0;2;0;0;0#0~~@@vv@@~~@@~~$\x1b\\",
    "APC": b"\x1b_Gf=100;AAAA\x1b\\",
    "reset": b"\x1bc",
    "device status asks for an answer": b"\x1b[6n",
    "private modes": b"\x1b[?1049h",
    "8-bit CSI": "\x9b2J".encode(),
    "8-bit OSC": "\x9d0;title\x9c".encode(),
    "raw 8-bit CSI": b"\x9b2J",
    "SGR with a private mark": b"\x1b[>4;2m",
    "endless parameters": b"\x1b[" + b"1;" * 500 + b"m",
    "backspace": b"safe\b\b\b\bevil",
    "bell and shift out": b"\x07\x0e",
    "cut off": b"\x1b[31",
}
SGR = re.compile(r"\x1b\[[0-9;:]*m")


def shown(*pieces: bytes, colour: bool = True) -> bytes:
    terminal = TerminalFilter(colour=colour)
    return b"".join(terminal.feed(piece) for piece in pieces) + terminal.close()


def assert_inert(output: bytes) -> None:
    text = SGR.sub("", output.decode())
    acting = [c for c in text if (ord(c) < 0x20 and c not in "\n\t\r") or 0x7F <= ord(c) <= 0x9F]
    assert acting == []


@pytest.mark.parametrize("output", HOSTILE.values(), ids=HOSTILE)
def test_log_19_no_sequence_of_a_job_acts_on_a_terminal(output: bytes) -> None:
    assert_inert(shown(output))


@given(st.lists(st.binary() | st.sampled_from([*HOSTILE.values(), b"\x1b", b"[", b"1;", b"m", b"\x9b"])))
def test_log_19_no_bytes_however_cut_act_on_a_terminal(pieces: list[bytes]) -> None:
    assert_inert(shown(*pieces))


@given(st.binary() | st.text().map(str.encode), st.integers(1, 7))
def test_cutting_the_output_into_pieces_changes_nothing(output: bytes, size: int) -> None:
    pieces = [output[start : start + size] for start in range(0, len(output), size)]

    assert shown(*pieces) == shown(output)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_plain_text_passes_unchanged(text: str) -> None:
    assert shown(text.encode()).decode() == text


def test_colours_pass_and_are_ended() -> None:
    assert shown(b"\x1b[1;38;5;9mred\n") == b"\x1b[1;38;5;9mred\n\x1b[0m"


def test_a_colour_that_the_job_ended_is_not_ended_again() -> None:
    assert shown(b"\x1b[31mred\x1b[0m\n") == b"\x1b[31mred\x1b[0m\n"


def test_colours_are_taken_out_where_they_are_not_wanted() -> None:
    assert shown(b"\x1b[31mred\x1b[0m\n", colour=False) == b"red\n"


def test_a_sequence_is_shown_as_text() -> None:
    assert shown(b"\x1b]0;x\x07") == b"^[]0;x^G"


@given(st.text())
def test_log_19_a_name_is_one_line_without_control_characters(name: str) -> None:
    line = show_inert(name)

    assert line.isprintable() or not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in line)
    assert len(line.splitlines()) <= 1
    assert "\u202e" not in line
