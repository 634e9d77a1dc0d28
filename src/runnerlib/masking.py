"""Secrets in a job's output become ``[REDACTED]``: bytes in, bytes out.

The rule is one of the whole stream and does not depend on how it is cut: a byte is covered if it
belongs to an occurrence of any pattern (`runnerlib.secret_forms`), overlapping ones included, and
each unbroken run of covered bytes becomes one ``[REDACTED]``. So two secrets side by side become
one. Every other byte is passed on unchanged.

A stream shows each byte as soon as that rule is decided for it. What it holds back is the longest
end of the output so far with which some pattern begins: at most one pattern less a byte.
"""

import importlib
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from types import ModuleType

from runnerlib.secret_forms import SHORTEST_SECRET_BYTES, patterns_of

ahocorasick_rs: ModuleType | None
try:
    ahocorasick_rs = importlib.import_module("ahocorasick_rs")
except ImportError:  # no wheel for this platform
    ahocorasick_rs = None

REDACTED = b"[REDACTED]"

_SLICE_BYTES = 64 * 1024
"""Looked at in one go, so that text made of nothing but matches costs bounded memory."""
_HEAD_BYTES = SHORTEST_SECRET_BYTES
"""Every pattern has at least so many."""
_GROUP = 48
"""Heads looked for together: up to about 60 an automaton runs on vector instructions, ten times as fast."""
_MOST_GROUPS = 12
"""With more, one large automaton beats many small ones."""

Span = tuple[int, int]
_Search = Callable[[bytes], list[int]]


class Masker:
    """The secrets of one job. Threads may register and mask at the same time.

    Args:
        secrets: text is taken as UTF-8; those under 6 bytes are not masked.
    """

    def __init__(self, secrets: Iterable[str | bytes] = ()) -> None:
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._generations: tuple[_Patterns, ...] = ()
        self.add(secrets)

    def add(self, secrets: Iterable[str | bytes]) -> None:
        """Mask these too, in every byte given to any stream after this returns."""
        texts = {s.encode("utf-8", "surrogateescape") if isinstance(s, str) else bytes(s) for s in secrets}
        with self._lock:
            new = texts - self._known
            self._known |= new
            patterns = frozenset(chain.from_iterable(map(patterns_of, new)))
            older = list(self._generations)
            # Joined with those not larger: each pattern is made ready a few times only, however
            # many secrets are registered one by one, and there are few generations to look for.
            while patterns and older and len(older[-1].patterns) <= len(patterns):
                patterns |= older.pop().patterns
            if patterns:
                self._generations = (*older, _Patterns(patterns))

    def stream(self) -> "MaskingStream":
        """Return a new stream; one for each pipe, as a secret is not looked for across two."""
        return MaskingStream(self)

    def mask(self, data: bytes) -> bytes:
        """Mask a whole text."""
        stream = self.stream()
        return stream.feed(data) + stream.close()

    def scan(self, data: bytes) -> tuple[list[Span], int]:
        """Do what `_Patterns.scan` does, for all secrets known now."""
        found = [patterns.scan(data) for patterns in self._generations]
        if len(found) == 1:
            return found[0]
        runs = _merge(chain.from_iterable(runs for runs, _ in found))
        return runs, min((unfinished for _, unfinished in found), default=len(data))


class MaskingStream:
    """The masking of one stream of bytes; used by one thread at a time."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""
        """The end of the input with which a pattern may begin."""
        self._shown = 0
        """So many of the held bytes are covered and were shown as part of a ``[REDACTED]``."""
        self._in_run = False
        """The byte before the first one not yet shown was covered."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, return what may be shown now."""
        if len(data) <= _SLICE_BYTES:
            return self._advance(data)
        starts = range(0, len(data), _SLICE_BYTES)
        return b"".join([self._advance(data[start : start + _SLICE_BYTES]) for start in starts])

    def flush_idle(self) -> bytes:
        """Return what may be shown of a stream gone quiet: nothing, as `feed` shows all there is at once.

        The held bytes stay: a pause must not show the first half of a secret.
        """
        return b""

    def close(self) -> bytes:
        """Return the rest: the stream has ended, what was held begins no secret."""
        data, shown = self._held, self._shown
        self._held, self._shown = b"", 0
        runs, _ = self._masker.scan(data)
        return self._render(data, _merge([(0, shown), *runs]), shown, len(data))

    def _advance(self, new: bytes) -> bytes:
        data, shown = self._held + new, self._shown
        runs, keep = self._masker.scan(data)
        if shown:
            runs = _merge([(0, shown), *runs])
        # A covered byte is decided, even if a longer pattern may still reach over it.
        frontier = next((end for start, end in runs if start <= keep < end), keep)
        self._held, self._shown = data[keep:], frontier - keep
        return self._render(data, runs, shown, frontier)

    def _render(self, data: bytes, runs: Sequence[Span], begin: int, end: int) -> bytes:
        if not runs:
            self._in_run = self._in_run and begin == end
            return data[begin:end]
        shown: list[bytes] = []
        at = begin
        for run_start, run_end in runs:
            if run_end <= begin:
                continue
            if run_start >= end:
                break
            if run_start > at:
                shown.append(data[at:run_start])
                self._in_run = False
            if not self._in_run:
                shown.append(REDACTED)
                self._in_run = True
            at = run_end
        if at < end:
            shown.append(data[at:end])
            self._in_run = False
        return b"".join(shown)


class _Patterns:
    """A fixed set of patterns, ready to be looked for.

    The text is searched for the patterns' first bytes only, all of the same length, and each place
    found is then compared with the patterns that begin so. Hence the cost of a text does not depend
    on how patterns are nested, and a long pattern costs no more to look for than a short one.
    """

    def __init__(self, patterns: frozenset[bytes]) -> None:
        self.patterns = patterns
        self._sorted = sorted(patterns)
        self._longest = max(map(len, self._sorted), default=1)
        self._shorter, self._jumps = _prefix_chains(self._sorted)
        self._heads = {pattern[:_HEAD_BYTES] for pattern in self._sorted}
        self._beginnings = {head[:length] for head in self._heads for length in range(1, _HEAD_BYTES)}
        heads = sorted(self._heads)
        size = _GROUP if len(heads) <= _GROUP * _MOST_GROUPS else len(heads)
        self._groups = [_search(heads[start : start + size]) for start in range(0, len(heads), size)]

    def scan(self, data: bytes) -> tuple[list[Span], int]:
        """Tell what is covered and what is undecided.

        Returns:
            The unbroken runs of bytes that patterns cover, in order; and where the longest end of
            ``data`` starts with which some longer pattern begins.
        """
        starts = self._head_starts(data)
        matches = [(start, start + self._length_at(data, start)) for start in starts]
        return _merge(match for match in matches if match[1] > match[0]), self._unfinished_from(data, starts)

    def _length_at(self, data: bytes, start: int) -> int:
        """Return the length of the longest pattern that stands there: it covers what shorter ones would.

        It is the last pattern that sorts before the text, or one that begins that pattern. However
        many share a beginning, and however they are nested, a few dozen comparisons decide it.
        """
        place = bisect_right(self._sorted, data[start : start + self._longest]) - 1
        while place >= 0 and not data.startswith(self._sorted[place], start):
            jump = self._jumps[place]
            too_far = jump < 0 or data.startswith(self._sorted[jump], start)
            place = self._shorter[place] if too_far else jump
        return len(self._sorted[place]) if place >= 0 else 0

    def _unfinished_from(self, data: bytes, starts: Sequence[int]) -> int:
        # A place that failed once is not held, so it is not tried again: linear in the stream.
        first = max(0, len(data) - self._longest + 1)
        for start in starts:
            if start >= first and self._is_unfinished(data[start:]):
                return start
        for start in range(max(first, len(data) - _HEAD_BYTES + 1), len(data)):
            if data[start:] in self._beginnings:
                return start
        return len(data)

    def _head_starts(self, data: bytes) -> list[int]:
        """Return each place where a pattern may begin, in order."""
        found = [start for group in self._groups for start in group(data)]
        if not found:
            return found
        # A search passes over what overlaps its last find.
        near = {place for start in found for place in range(start, start + _HEAD_BYTES)}
        return sorted(place for place in near if data[place : place + _HEAD_BYTES] in self._heads)

    def _is_unfinished(self, text: bytes) -> bool:
        place = bisect_right(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)


def _prefix_chains(patterns: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Link each of the sorted patterns to the longest other one that it begins with, -1 if there is none.

    Returns:
        Those links; and jumps along them, so laid that any place of a chain of n links is reached in
        about log n steps (skew-binary jump pointers).
    """
    shorter: list[int] = []
    jumps: list[int] = []
    depths: list[int] = []
    chain: list[int] = []
    for place, pattern in enumerate(patterns):
        while chain and not pattern.startswith(patterns[chain[-1]]):
            chain.pop()
        above = chain[-1] if chain else -1
        shorter.append(above)
        depths.append(depths[above] + 1 if above >= 0 else 0)
        jump = jumps[above] if above >= 0 else -1
        beyond = jumps[jump] if jump >= 0 else -1
        is_even = beyond >= 0 and depths[above] - depths[jump] == depths[jump] - depths[beyond]
        jumps.append(beyond if is_even else above)
        chain.append(place)
    return shorter, jumps


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _search(heads: Sequence[bytes]) -> _Search:
    if ahocorasick_rs is None:
        return search_by_expression(heads)
    automaton = ahocorasick_rs.BytesAhoCorasick(heads, ahocorasick_rs.MatchKind.LeftmostFirst)
    return lambda data: [start for _, start, _ in automaton.find_matches_as_indexes(data)]


def search_by_expression(heads: Sequence[bytes]) -> _Search:
    """Do the automaton's work where no wheel of it exists (musl); slow with many secrets."""
    expression = re.compile(b"|".join(map(re.escape, heads)))
    return lambda data: [found.start() for found in expression.finditer(data)]
