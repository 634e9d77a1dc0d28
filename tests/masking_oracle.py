"""What masking must come to, worked out the slow way over the whole text, and texts worth keeping."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerlib.masking import REDACTED, Masker
from runnerlib.secret_forms import patterns_of


def oracle(secrets: Iterable[bytes], data: bytes) -> bytes:
    """Mark each byte of every occurrence of every pattern, one by one; replace each marked run."""
    return oracle_of_registrations({0: list(secrets)}, [data])


def oracle_of_registrations(secrets: Mapping[int, list[bytes]], pieces: Sequence[bytes]) -> bytes:
    """Do so for secrets that are registered before the piece of that number.

    Such a one counts from there on, or from where what is held back then begins: with that, some
    pattern known before might begin.
    """
    data, at = b"".join(pieces), 0
    counts_from: dict[bytes, int] = {}
    for number, piece in enumerate(pieces):
        held = [
            start
            for pattern, first in counts_from.items()
            for start in range(max(first, at - len(pattern) + 1), at)
            if pattern.startswith(data[start:at])
        ]
        for secret in secrets.get(number, []):
            for pattern in patterns_of(secret):
                counts_from.setdefault(pattern, min(held, default=at))
        at += len(piece)
    marked = bytearray(len(data))
    for pattern, first in counts_from.items():
        for start in range(first, len(data) - len(pattern) + 1):
            if data[start : start + len(pattern)] == pattern:
                marked[start : start + len(pattern)] = b"\1" * len(pattern)
    shown = bytearray()
    for is_marked, run in itertools.groupby(range(len(data)), key=marked.__getitem__):
        shown += REDACTED if is_marked else bytes(data[place] for place in run)
    return bytes(shown)


def mask_with_registrations(secrets: Mapping[int, list[bytes]], pieces: Sequence[bytes]) -> bytes:
    masker = Masker()
    stream = masker.stream()
    shown = b""
    for number, piece in enumerate(pieces):
        masker.add(secrets.get(number, []))
        shown += stream.feed(piece)
    return shown + stream.close()


def mask_in_pieces(masker: Masker, pieces: Iterable[bytes]) -> bytes:
    stream = masker.stream()
    return b"".join([stream.feed(piece) + stream.flush_idle() for piece in pieces]) + stream.close()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def registered_singly(secrets: Iterable[bytes]) -> Masker:
    masker = Masker()
    for secret in secrets:
        masker.add([secret])
    return masker


@dataclass(frozen=True)
class StoredCase:
    """A nasty text, in pieces; secrets are registered before the piece of that number."""

    why: str
    secrets: dict[int, list[bytes]]
    pieces: list[bytes]
    shown: bytes

    @classmethod
    def read(cls, told: dict[str, Any]) -> "StoredCase":
        """Characters in the file are bytes, as in Latin-1; ``secrets`` are known from the start."""
        late = {int(number): secrets for number, secrets in told.get("late", {}).items()}
        secrets = {0: told["secrets"], **late}
        return cls(
            told["why"],
            {number: [secret.encode("latin-1") for secret in some] for number, some in secrets.items()},
            [piece.encode("latin-1") for piece in told["pieces"]],
            told["shown"].encode("latin-1"),
        )


_STORED = Path(__file__).parent / "runnerlib" / "masking_corpus.json"
CORPUS = [StoredCase.read(told) for told in json.loads(_STORED.read_text())]
