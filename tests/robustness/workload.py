"""The workload: jobs made from a seed, and what each of them has to print."""

import base64
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from robustness.ledger import TELL

TEXT = "the quick brown fox jumps"
REDACTED = "[REDACTED]"
FAILS_WITH = 3
TIMEOUT_SECONDS = 2


class Kind(StrEnum):
    """What becomes of a job that no fault hits."""

    SHORT = "short"
    LONG = "long"
    FAILING = "failing"
    CANCELLED = "cancelled"
    TIMING_OUT = "timing_out"
    RETRIED = "retried"


SHARES = {
    Kind.SHORT: 70,
    Kind.LONG: 15,
    Kind.FAILING: 5,
    Kind.CANCELLED: 4,
    Kind.TIMING_OUT: 3,
    Kind.RETRIED: 3,
}
_SECONDS = {
    Kind.SHORT: (0.1, 1),
    Kind.LONG: (3, 8),
    Kind.FAILING: (0.1, 1),
    Kind.CANCELLED: (4, 12),
    Kind.TIMING_OUT: (30, 30),
    Kind.RETRIED: (1, 8),
}


@dataclass(frozen=True)
class Plan:
    """One job of the workload."""

    key: str
    kind: Kind
    client: int
    submit_at: float
    """Seconds after the begin."""
    seconds: float
    lines: int
    secret: str | None = None
    cancel_after: float | None = None
    is_forced: bool = False
    ignores_term: bool = False
    has_errors: bool = False
    """Whether every third part goes to standard error."""

    @property
    def retry_on_lost(self) -> int:
        """How many more runs it asks for when its worker is lost."""
        return 2 if self.kind is Kind.RETRIED else 0

    def body(self, ledger_port: int) -> dict[str, object]:
        """Return what is posted."""
        body: dict[str, object] = {
            "name": self.key,
            "source_type": "none",
            "job_command": 'exec bash -c "$NEM_SCRIPT"',
            "job_env_vars": {"NEM_SCRIPT": self.script(), "NEM_LEDGER": str(ledger_port)},
            "retry_on_lost": self.retry_on_lost,
            "timeout_seconds": TIMEOUT_SECONDS if self.kind is Kind.TIMING_OUT else 120,
            "artifacts": [],
        }
        if self.secret is not None:
            body["job_secrets"] = {"NEM_SECRET": self.secret}
        return body

    def script(self) -> str:
        """Return the script for bash."""
        parts = [TELL]
        if self.ignores_term:
            parts.append("trap '' TERM\n")
        parts.append("tell start 0\n")
        for begin, end, is_error in self._parts():
            out = " >&2" if is_error else ""
            parts.append(f"seq -f '{self.key} %06.0f {TEXT}' {begin} {end - 1}{out}\n")
            parts.append(f"tell line {end}\nsleep {self.seconds / self._part_count:.3f}\n")
        if self.secret is not None:
            parts.append('echo "token=$NEM_SECRET;"\nprintf %s "$NEM_SECRET" | base64 -w0; echo\n')
        parts.append("tell end 0\n")
        if self.kind is Kind.FAILING:
            parts.append(f"exit {FAILS_WITH}\n")
        return "".join(parts)

    def expected(self, *, errors: bool = False) -> bytes:
        """Return the whole of standard output, or of standard error, as it is to be stored."""
        text = [
            f"{self.key} {number:06d} {TEXT}\n"
            for begin, end, is_error in self._parts()
            if is_error is errors
            for number in range(begin, end)
        ]
        if self.secret is not None and not errors:
            text.append(f"token={REDACTED};\n{REDACTED}\n")
        return "".join(text).encode()

    def lines_on(self, count: int, *, errors: bool) -> int:
        """Return how many of the first ``count`` lines go to standard error, or to standard output."""
        return sum(max(0, min(end, count) - begin) for begin, end, err in self._parts() if err is errors)

    @property
    def _part_count(self) -> int:
        return 6 if self.seconds > 2 else 3

    def _parts(self) -> Iterator[tuple[int, int, bool]]:
        marks = [self.lines * place // self._part_count for place in range(self._part_count + 1)]
        for place in range(self._part_count):
            yield marks[place], marks[place + 1], self.has_errors and place % 3 == 2


def make_plans(seed: int, jobs: int, over_seconds: float, *, clients: int = 8) -> list[Plan]:
    """Return the jobs of a seed, in the order of their submission, spread over ``over_seconds``."""
    chance = random.Random(f"workload {seed}")
    moments = sorted(chance.uniform(0, over_seconds) for _ in range(jobs))
    return [_make_plan(chance, seed, number, at, clients) for number, at in enumerate(moments)]


def _make_plan(chance: random.Random, seed: int, number: int, submit_at: float, clients: int) -> Plan:
    (kind,) = chance.choices(list(SHARES), weights=list(SHARES.values()))
    secret = None
    if chance.random() < 0.25:
        # Of a length divisible by 3, so that its base64 form ends with itself.
        secret = f'S{seed % 100:02d}"{chance.randbytes(8).hex()}/+&{chance.randbytes(8).hex()}é'
        secret += "x" * (-len(secret.encode()) % 3)
    is_cancelled = kind is Kind.CANCELLED
    return Plan(
        key=f"n{seed}-{number:05d}",
        kind=kind,
        client=number % clients,
        submit_at=submit_at,
        seconds=chance.uniform(*_SECONDS[kind]),
        lines=chance.randint(20, 2000),
        secret=secret,
        cancel_after=chance.uniform(0, 6) if is_cancelled else None,
        is_forced=is_cancelled and chance.random() < 0.3,
        ignores_term=is_cancelled and chance.random() < 0.4,
        has_errors=chance.random() < 0.2,
    )


def giveaways(secret: str) -> set[bytes]:
    """Return the spellings of a secret that must be nowhere; written apart from the product's own list."""
    from json import dumps
    from urllib.parse import quote, quote_plus

    plain = secret.encode()
    forms = {plain, plain.hex().encode(), plain.hex().upper().encode()}
    forms |= {quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    forms |= {dumps(secret)[1:-1].encode(), dumps(secret, ensure_ascii=False)[1:-1].encode()}
    for shift in range(3):
        # What depends on the secret alone, whatever stands before and after it.
        encoded = base64.b64encode(b"\0" * shift + plain)
        inner = encoded[4 if shift else 0 : len(encoded) - 4]
        forms |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms
