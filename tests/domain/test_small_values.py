"""Ids, tokens, reasons and delays."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactorcide.domain.accounts import compose_token, hash_token, is_token_mistyped
from reactorcide.domain.ids import is_id, make_id
from reactorcide.domain.reasons import Fault, Reason, possible_faults, usual_fault
from reactorcide.domain.retry import retry_delay

milliseconds = st.integers(0, 2**48 - 1)
entropies = st.integers(0, 2**74 - 1)
token_entropies = st.lists(st.integers(0, 247), min_size=30, max_size=40).map(bytes)


@given(milliseconds, entropies)
def test_an_id_is_a_uuid_of_version_7_that_begins_with_its_time(now: int, entropy: int) -> None:
    made = make_id(now, entropy)

    assert is_id(made)
    assert int(made.replace("-", "")[:12], 16) == now
    assert made[14] == "7"
    assert made[19] in "89ab"


@given(entropies, entropies)
def test_different_entropy_makes_different_ids(one: int, other: int) -> None:
    assert (make_id(1, one) == make_id(1, other)) == (one == other)


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 36, "0" * 36, make_id(1, 1).upper() + "A", make_id(1, 1) + "\n"]
)
def test_what_is_not_written_as_an_id_is_none(text: str) -> None:
    assert not is_id(text)


@given(token_entropies)
def test_a_token_has_its_form_and_a_right_checksum(entropy: bytes) -> None:
    token = compose_token(entropy)

    assert token.startswith("rct_")
    assert len(token) == 40
    assert token.isascii()
    assert not is_token_mistyped(token)


@given(token_entropies, st.integers(4, 33))
def test_one_wrong_character_in_a_token_is_noticed(entropy: bytes, place: int) -> None:
    token = compose_token(entropy)
    wrong = token[:place] + ("a" if token[place] != "a" else "b") + token[place + 1 :]

    assert is_token_mistyped(wrong)


def test_a_text_of_another_form_may_be_a_token_too() -> None:
    assert not is_token_mistyped("a-token-of-an-older-deployment")
    assert len(hash_token("a-token-of-an-older-deployment")) == 32


def test_biased_or_short_entropy_makes_no_token() -> None:
    with pytest.raises(ValueError, match="30 random bytes"):
        compose_token(b"\xff" * 30)
    with pytest.raises(ValueError, match="30 random bytes"):
        compose_token(b"a" * 29)


def test_every_reason_has_one_usual_fault() -> None:
    assert {usual_fault(reason) for reason in Reason} == set(Fault)


def test_only_a_failed_source_may_be_the_fault_of_one_or_the_other() -> None:
    doubtful = [reason for reason in Reason if len(possible_faults(reason)) > 1]

    assert doubtful == [Reason.SOURCE_FAILED]
    assert possible_faults(Reason.SOURCE_FAILED) == {Fault.INFRA, Fault.USER}


@given(st.integers(1, 10_000))
def test_a_delay_grows_up_to_its_ceiling(attempt: int) -> None:
    base, ceiling = timedelta(seconds=1), timedelta(minutes=5)

    delay = retry_delay(attempt, base=base, ceiling=ceiling)

    assert base <= delay <= ceiling
    assert delay <= retry_delay(attempt + 1, base=base, ceiling=ceiling)


def test_attempts_are_counted_from_1() -> None:
    with pytest.raises(ValueError, match="below 1"):
        retry_delay(0, base=timedelta(seconds=1), ceiling=timedelta(seconds=2))
