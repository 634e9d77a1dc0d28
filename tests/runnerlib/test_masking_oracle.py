"""C17: masking, with secrets registered at any moment, equals the oracle however the bytes come."""

import itertools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masking_oracle import (
    CORPUS,
    StoredCase,
    cut,
    mask_in_pieces,
    mask_with_registrations,
    oracle,
    oracle_of_registrations,
    registered_singly,
)
from runnerlib import masking
from runnerlib.masking import Masker
from runnerlib.secret_forms import patterns_of

EXAMPLES = 100_000 if os.environ.get("REACTORCIDE_LONG_TESTS") == "1" else 2_000

ALPHABET = st.sampled_from([b"a", b"b", b"ab", b"\n", b"\r\n", b"/", b'"', b"\xc3\xa9"])
SMALL_TEXT = st.lists(ALPHABET, min_size=1, max_size=14).map(b"".join)


@st.composite
def masking_cases(draw: st.DrawFn) -> tuple[list[bytes], bytes, list[int]]:
    """Secrets that are parts of each other, a text made of their forms and pieces, and cuts in it."""
    secrets = draw(st.lists(SMALL_TEXT, min_size=1, max_size=4))
    whole = draw(st.sampled_from(secrets))
    begin, length = draw(st.integers(0, len(whole))), draw(st.integers(4, 12))
    secrets.append(whole[begin : begin + length])
    forms = sorted({form for secret in secrets for form in patterns_of(secret)}) or [b"x"]
    pieces: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        form = draw(st.sampled_from(forms))
        begin, end = sorted((draw(st.integers(0, len(form))), draw(st.integers(0, len(form)))))
        pieces.append(draw(st.sampled_from([form, form, form[begin:end], form[begin:], form[:end]])))
        pieces.append(draw(st.one_of(st.just(b""), SMALL_TEXT)))
    data = b"".join(pieces)
    return secrets, data, draw(st.lists(st.integers(0, len(data)), max_size=6))


@pytest.mark.timeout(120 if EXAMPLES <= 2_000 else 3_600)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(masking_cases())
def test_c17_masking_equals_the_oracle_for_any_chunking(case: tuple[list[bytes], bytes, list[int]]) -> None:
    secrets, data, places = case

    wanted = oracle(secrets, data)

    assert mask_in_pieces(Masker(secrets), cut(data, places)) == wanted
    assert mask_in_pieces(registered_singly(secrets), cut(data, places)) == wanted


@pytest.mark.timeout(120 if EXAMPLES <= 2_000 else 3_600)
@settings(max_examples=max(500, EXAMPLES // 4), deadline=None, suppress_health_check=list(HealthCheck))
@given(masking_cases(), st.data())
def test_c17_registration_in_the_middle_equals_the_oracle(
    case: tuple[list[bytes], bytes, list[int]], choice: st.DataObject
) -> None:
    secrets, data, places = case
    pieces = cut(data, places)
    numbers = choice.draw(
        st.lists(st.integers(0, len(pieces) - 1), min_size=len(secrets), max_size=len(secrets))
    )
    late: dict[int, list[bytes]] = {}
    for number, secret in zip(numbers, secrets, strict=True):
        late.setdefault(number, []).append(secret)

    assert mask_with_registrations(late, pieces) == oracle_of_registrations(late, pieces)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.why)
def test_c17_the_stored_cases_are_masked_as_stored(case: StoredCase) -> None:
    assert mask_with_registrations(case.secrets, case.pieces) == case.shown
    assert oracle_of_registrations(case.secrets, case.pieces) == case.shown


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.why)
def test_c17_the_stored_texts_equal_the_oracle_however_they_are_cut(case: StoredCase) -> None:
    secrets, data = [secret for some in case.secrets.values() for secret in some], b"".join(case.pieces)
    masker = registered_singly(secrets)

    wanted = oracle(secrets, data)

    for pair in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert mask_in_pieces(masker, cut(data, pair)) == wanted


def test_the_search_without_the_automaton_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "ahocorasick_rs", None)

    for case in CORPUS:
        assert mask_with_registrations(case.secrets, case.pieces) == case.shown
