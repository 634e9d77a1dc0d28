"""Secrets in a job's output become ``[REDACTED]``: bytes in, bytes out.

The rule is one of the whole stream and does not depend on how it is cut: a byte is covered if it
belongs to an occurrence of any pattern (`runnerlib.secret_forms`), overlapping ones included, and
each unbroken run of covered bytes becomes one ``[REDACTED]``. So two secrets side by side become
one. Every other byte is passed on unchanged.

A stream shows each byte as soon as that rule is decided for it. What it holds back is the longest
end of the output so far with which some pattern begins: at most one pattern less a byte.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from runnerlib.secret_forms import SHORTEST_SECRET_BYTES, patterns_of

REDACTED = b"[REDACTED]"

_SLICE_BYTES = 64 * 1024
"""Looked at in one go, so that text made of nothing but matches costs bounded memory."""
_ANCHOR_BYTES = SHORTEST_SECRET_BYTES
_GROUP = 48
_MOST_GROUPS = 12

Span = tuple[int, int]


class Masker:
    """The secrets of one job. Threads may register and mask at the same time.

    Args:
        secrets: text is taken as UTF-8; those under 6 bytes are not masked.
    """

    def __init__(self, secrets: Iterable[str | bytes] = ()) -> None:
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._forms: set[bytes] = set()
        self._patterns: _Patterns | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str | bytes]) -> None:
        """Mask these too, in every byte given to any stream after this returns."""
        texts = {s.encode("utf-8", "surrogateescape") if isinstance(s, str) else bytes(s) for s in secrets}
        with self._lock:
            new = texts - self._known
            if not new and self._patterns is not None:
                return
            self._known |= new
            self._forms.update(chain.from_iterable(map(patterns_of, new)))
            self._patterns = None

    def stream(self) -> "MaskingStream":
        """Return a new stream; one for each pipe, as a secret is not looked for across two."""
        return MaskingStream(self)

    def mask(self, data: bytes) -> bytes:
        """Mask a whole text."""
        stream = self.stream()
        return stream.feed(data) + stream.close()

    def present_patterns(self) -> "_Patterns":
        """Return what the streams look for now."""
        with self._lock:
            if self._patterns is None:
                self._patterns = _Patterns(self._forms)
            return self._patterns


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
        runs = _runs(self._masker.present_patterns(), data, shown)
        return self._render(data, runs, shown, len(data))

    def _advance(self, new: bytes) -> bytes:
        data, shown = self._held + new, self._shown
        patterns = self._masker.present_patterns()
        runs = _runs(patterns, data, shown)
        keep = patterns.unfinished_from(data)
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
    """A fixed set of patterns, ready to be looked for."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._sorted = sorted(patterns)
        self._longest = max(map(len, self._sorted), default=1)
        self._signs = _Signs(_without_extensions(self._sorted))
        self._layers = [_automaton(layer) for layer in _suffix_layers(self._sorted)]
        anchors = sorted({pattern[:_ANCHOR_BYTES] for pattern in self._sorted})
        self._anchor_signs = _Signs(anchors)
        self._anchors = _automaton(anchors)

    def find_runs(self, data: bytes) -> list[Span]:
        """Return the unbroken runs of bytes that patterns cover, in order."""
        runs: list[Span] = []
        # Each occurrence holds a sign or overlaps one that was found: so it lies near a sign.
        near = [(max(0, s - self._longest), e + self._longest) for s, e in self._signs.find(data)]
        for begin, end in _merge(near):
            window = data[begin:end]
            for layer in self._layers:
                found = layer.find_matches_as_indexes(window, overlapping=True)
                # Merged layer by layer: a layer has at most one match for each byte.
                runs = _merge([*runs, *((begin + s, begin + e) for _, s, e in found)])
        return runs

    def unfinished_from(self, data: bytes) -> int:
        """Return where the longest end of ``data`` starts that some longer pattern begins with.

        Each place is tried at most once in the life of a stream: what has failed to begin a
        pattern is not held, so it is not seen again.
        """
        first = max(0, len(data) - self._longest + 1)
        tail = data[first:]
        if self._anchor_signs.find(tail):
            for _, start, _ in self._anchors.find_matches_as_indexes(tail, overlapping=True):
                if self._is_unfinished(tail[start:]):
                    return first + start
        for start in range(max(0, len(tail) - _ANCHOR_BYTES + 1), len(tail)):
            if self._is_unfinished(tail[start:]):
                return first + start
        return len(data)

    def _is_unfinished(self, text: bytes) -> bool:
        place = bisect_right(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)


def _runs(patterns: _Patterns, data: bytes, shown: int) -> list[Span]:
    found = patterns.find_runs(data)
    return _merge([(0, shown), *found]) if shown else found


class _Signs:
    """Finds, quickly, whether any of some patterns is there: the first of overlapping ones at least.

    Up to about 60 patterns the automaton runs on vector instructions, ten times as fast; so several
    small ones beat a large one until there are many.
    """

    def __init__(self, patterns: Sequence[bytes]) -> None:
        size = _GROUP if len(patterns) <= _GROUP * _MOST_GROUPS else len(patterns)
        groups = [patterns[start : start + size] for start in range(0, len(patterns), size)]
        self._groups = [_automaton(group, is_leftmost=True) for group in groups]

    def find(self, data: bytes) -> list[Span]:
        """Return where the patterns were found, in order."""
        found = [(s, e) for group in self._groups for _, s, e in group.find_matches_as_indexes(data)]
        return sorted(found)


def _without_extensions(ordered: Sequence[bytes]) -> list[bytes]:
    """Leave out each pattern that begins or ends with another one."""
    return _without_suffixed(_without_prefixed(ordered))


def _without_prefixed(ordered: Sequence[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for pattern in ordered:
        if not kept or not pattern.startswith(kept[-1]):
            kept.append(pattern)
    return kept


def _without_suffixed(patterns: Iterable[bytes]) -> list[bytes]:
    return [text[::-1] for text in _without_prefixed(sorted(pattern[::-1] for pattern in patterns))]


def _suffix_layers(patterns: Iterable[bytes]) -> list[list[bytes]]:
    """Part the patterns so that in one layer none ends with another.

    Then at most one of a layer ends at any byte, and a text cannot make more matches than it has
    bytes, however the secrets are nested.
    """
    layers: list[list[bytes]] = []
    around: list[bytes] = []
    for text in sorted(pattern[::-1] for pattern in patterns):
        while around and not text.startswith(around[-1]):
            around.pop()
        if len(around) == len(layers):
            layers.append([])
        layers[len(around)].append(text[::-1])
        around.append(text)
    return layers


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


class _Automaton(Protocol):
    def find_matches_as_indexes(
        self, data: bytes, *, overlapping: bool = False
    ) -> list[tuple[int, int, int]]: ...


class _PlainSearch:
    """Does the automaton's work with `bytes.find`, where no wheel of it exists (musl); slow."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        self._patterns = patterns

    def find_matches_as_indexes(
        self, data: bytes, *, overlapping: bool = False
    ) -> list[tuple[int, int, int]]:
        del overlapping  # more matches than asked for do no harm
        found: list[tuple[int, int, int]] = []
        for number, pattern in enumerate(self._patterns):
            start = data.find(pattern)
            while start >= 0:
                found.append((number, start, start + len(pattern)))
                start = data.find(pattern, start + 1)
        return sorted(found, key=lambda match: match[2])


try:
    from ahocorasick_rs import BytesAhoCorasick, MatchKind
except ImportError:  # pragma: no cover

    def _automaton(patterns: Sequence[bytes], *, is_leftmost: bool = False) -> _Automaton:
        del is_leftmost
        return _PlainSearch(patterns)

else:

    def _automaton(patterns: Sequence[bytes], *, is_leftmost: bool = False) -> _Automaton:
        kind = MatchKind.LeftmostFirst if is_leftmost else MatchKind.Standard
        automaton: _Automaton = BytesAhoCorasick(patterns, kind)
        return automaton
