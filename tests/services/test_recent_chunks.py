"""What a process remembers of its own appends."""

from reactorcide.services.log_chunks import make_chunk
from reactorcide.services.recent_chunks import RecentChunks


def test_the_last_chunks_are_kept_within_a_bound() -> None:
    recent = RecentChunks(most_bytes=100)

    for job in ("a", "b"):
        for start in (0, 30, 60):
            recent.keep(job, 1, *make_chunk(job, 1, start, b"%d" % (start // 30) * 30, b""))

    assert [recent.read("a", 1, start, start + 30) for start in (0, 30)] == [None, None]
    assert recent.read("b", 1, 10, 90) == b"0" * 20
    assert recent.read("b", 1, 59, 61) == b"1"
    assert recent.read("b", 1, 90, 91) is None
    assert recent.read("b", 2, 0, 1) is None


def test_a_longer_last_chunk_takes_the_place_and_the_room_of_the_shorter() -> None:
    recent = RecentChunks(most_bytes=40)

    for length in range(1, 31):
        recent.keep("a", 1, *make_chunk("a", 1, 0, b"x" * length, b"index"))

    assert recent.read("a", 1, 0, 30) == b"x" * 30


def test_the_index_is_left_out_of_what_is_read() -> None:
    recent = RecentChunks()

    recent.keep("a", 1, *make_chunk("a", 1, 0, b"one", b"1 o 3\n"))

    assert recent.read("a", 1, 1, 100) == b"ne"
