"""The cut of endless lines does not depend on how the output is cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from runnerlib.pump import CUT_MARKER, LineCap

LIMIT = 5


def cap_lines_as_a_whole(data: bytes) -> bytes:
    lines = data.replace(b"\r", b"\r\0").replace(b"\n", b"\n\0").split(b"\0")
    shown = b""
    for line in lines:
        body, end = (line[:-1], line[-1:]) if line.endswith((b"\r", b"\n")) else (line, b"")
        shown += (body[:LIMIT] + CUT_MARKER if len(body) > LIMIT else body) + end
    return shown


@given(st.lists(st.binary(max_size=12).map(lambda b: bytes(b"ab\r\n"[x % 4] for x in b)), max_size=12))
def test_lines_are_cut_the_same_however_they_come(pieces: list[bytes]) -> None:
    cap = LineCap(LIMIT)

    shown = b"".join(map(cap.feed, pieces))

    assert shown == cap_lines_as_a_whole(b"".join(pieces))


def test_a_line_as_long_as_the_limit_is_whole() -> None:
    assert LineCap(LIMIT).feed(b"12345\n123456\n") == b"12345\n12345" + CUT_MARKER + b"\n"
