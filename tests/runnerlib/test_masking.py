"""S11, LOG-*: masking is a property of the byte stream, compared here with a whole-buffer oracle."""

import base64
import itertools
import json
import os
import random
import re
import threading
import urllib.parse
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runnerlib import masking
from runnerlib.masking import REDACTED, Masker
from runnerlib.secret_forms import PIECE_BYTES, patterns_of

EXAMPLES = 100_000 if os.environ.get("REACTORCIDE_LONG_TESTS") == "1" else 2_000

SECRET = b'tr0ub4dor&3 /+"x'
KEY = (
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz\n"
    b"c2gtZWQyNTUxOQAAACB/fCkFJqWxKLtB\n"
    b"short\n"
    b"-----END OPENSSH PRIVATE KEY-----\n"
)


def oracle(secrets: Iterable[bytes], data: bytes) -> bytes:
    """Mark each byte of every occurrence of every pattern, one by one; replace each marked run."""
    marked = bytearray(len(data))
    for pattern in {pattern for secret in secrets for pattern in patterns_of(secret)}:
        for start in range(len(data) - len(pattern) + 1):
            if data[start : start + len(pattern)] == pattern:
                marked[start : start + len(pattern)] = b"\1" * len(pattern)
    shown = bytearray()
    for is_marked, run in itertools.groupby(range(len(data)), key=marked.__getitem__):
        shown += REDACTED if is_marked else bytes(data[place] for place in run)
    return bytes(shown)


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


# --- the named cases ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (SECRET + b" at the start", b"[REDACTED] at the start"),
        (b"in the " + SECRET + b" middle\n", b"in the [REDACTED] middle\n"),
        (b"at the end " + SECRET + b"\n", b"at the end [REDACTED]\n"),
        (b"twice " + SECRET * 2 + b" adjacent", b"twice [REDACTED] adjacent"),
        (b"apart " + SECRET + b"," + SECRET, b"apart [REDACTED],[REDACTED]"),
        (SECRET, b"[REDACTED]"),
        (b"\x00\xff\x1b[0m not it: " + SECRET[:-1], b"\x00\xff\x1b[0m not it: " + SECRET[:-1]),
    ],
)
def test_log_01_a_secret_is_masked_wherever_it_stands_and_nothing_else_is(data: bytes, shown: bytes) -> None:
    assert Masker([SECRET]).mask(data) == shown


def test_log_02_a_secret_is_masked_however_it_is_cut() -> None:
    masker = Masker([SECRET, KEY])
    data = b"a " + SECRET + b"\nb " + SECRET + SECRET[:4]

    for places in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert mask_in_pieces(masker, cut(data, places)) == oracle([SECRET, KEY], data), places


def test_log_02_a_secret_given_byte_by_byte_is_masked() -> None:
    masker = Masker([KEY])

    shown = mask_in_pieces(masker, [bytes([byte]) for byte in b"> " + KEY + b"<"])

    assert shown == b"> [REDACTED]<"


@pytest.mark.parametrize(
    ("secrets", "data", "shown"),
    [
        ([b"abcdef", b"abcdefghij"], b"<abcdefghij> <abcdefghi>", b"<[REDACTED]> <[REDACTED]ghi>"),
        ([b"efghij", b"abcdefghij"], b"<abcdefghij> <xefghij>", b"<[REDACTED]> <x[REDACTED]>"),
        ([b"cdefgh", b"abcdefghij"], b"<abcdefghij> <xcdefghx>", b"<[REDACTED]> <x[REDACTED]x>"),
        ([b"abcdefgh", b"efghijkl"], b"<abcdefghijkl>", b"<[REDACTED]>"),
        ([b"abcabcab"], b"<abcabcabcabcab>", b"<[REDACTED]>"),
        ([b"aaaaaa"], b"aaaaa aaaaaa aaaaaaaaaaaaab", b"aaaaa [REDACTED] [REDACTED]b"),
        ([b"aaaaaab", b"xaaaaaa"], b"xaaaaaa.aaaaaab", b"[REDACTED].[REDACTED]"),
    ],
)
def test_log_04_the_union_of_secrets_that_overlap_is_masked(
    secrets: list[bytes], data: bytes, shown: bytes
) -> None:
    masker = Masker(secrets)

    assert masker.mask(data) == shown
    for place in range(len(data)):
        assert mask_in_pieces(masker, cut(data, [place])) == shown


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
def test_log_05_a_key_of_several_lines_is_masked_whole_and_by_the_line(line_break: bytes) -> None:
    masker = Masker([KEY])
    lines = KEY.splitlines()

    whole = masker.mask(b"key: " + KEY.replace(b"\n", line_break) + b"done")
    single = [masker.mask(b"    " + line + line_break) for line in lines]

    assert whole == b"key: [REDACTED]done"
    assert single == [b"    " + (line if len(line) < 8 else REDACTED) + line_break for line in lines]


def test_log_05_lines_of_a_crlf_secret_are_masked_in_lf_output() -> None:
    masker = Masker([b"first line\r\nsecond line\r\n"])

    assert masker.mask(b"first line\nsecond line\n--second line") == b"[REDACTED]--[REDACTED]"


@pytest.mark.parametrize(
    "secret", [SECRET, b"12345678", "pässwörter <&> \t\n / ünd".encode(), bytes(range(200, 224))]
)
@pytest.mark.parametrize("before", [b"", b"u", b"u:", b"u:p"])
@pytest.mark.parametrize("after", [b"", b"@", b"@h", b"@ho"])
def test_log_07_base64_is_masked_at_every_alignment(secret: bytes, before: bytes, after: bytes) -> None:
    masker = Masker([secret])
    standard = base64.b64encode(before + secret + after)

    for encoded in (standard, standard.translate(bytes.maketrans(b"+/", b"-_"))):
        for text in (encoded, encoded.rstrip(b"=")):
            shown = masker.mask(text)

            # What depends on bytes of the secret alone is gone: at most a mixed character stays at each side.
            left, redacted, right = shown.partition(REDACTED)
            assert redacted
            assert len(left) == -(-len(before) * 8 // 6)
            assert len(right) <= (0 if not after else len(encoded) - (len(before + secret) * 8) // 6)


@pytest.mark.parametrize("secret", [SECRET, b"12345678", "pässwörter <&> \t / ünd".encode()])
def test_log_07_hex_url_and_json_forms_are_masked(secret: bytes) -> None:
    masker = Masker([secret])
    text = secret.decode()
    quoted = urllib.parse.quote(secret, safe="")
    forms = [
        secret.hex(),
        secret.hex().upper(),
        quoted,
        urllib.parse.quote(secret),
        urllib.parse.quote(secret, safe="!'()*"),
        urllib.parse.quote_plus(secret),
        re.sub("%..", lambda found: found[0].lower(), quoted),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1].replace("/", "\\/"),
        json.dumps(text)[1:-1].replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    ]

    for form in forms:
        assert masker.mask(b"<" + form.encode() + b">") == b"<[REDACTED]>", form


def test_log_07_base64_wrapped_in_lines_is_masked() -> None:
    masker = Masker([KEY])

    for encoded in (base64.encodebytes(KEY), base64.encodebytes(KEY.rstrip(b"\n"))):
        shown = masker.mask(encoded)

        assert shown.replace(REDACTED, b"").split() == [], shown


def test_log_07_a_json_log_record_keeps_its_frame() -> None:
    record = json.dumps({"password": SECRET.decode(), "level": "info"}).encode()

    assert Masker([SECRET]).mask(record) == b'{"password": "[REDACTED]", "level": "info"}'


# --- what is no pattern ---------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [b"", b"a", b"12345", b"1\n2\n3"])
def test_a_secret_under_six_bytes_is_no_pattern(secret: bytes) -> None:
    data = b"12345 1\n2\n3 " + secret + b"\n\n\n"

    assert Masker([secret]).mask(data) == data


def test_line_breaks_alone_are_no_secret() -> None:
    assert Masker([b"\n" * 9]).mask(b"\n" * 20) == b"\n" * 20


def test_without_secrets_bytes_pass_at_once() -> None:
    stream = Masker().stream()

    assert stream.feed(bytes(range(256))) == bytes(range(256))
    assert stream.close() == b""


# --- what is shown when ---------------------------------------------------------------------------


def test_a_prompt_without_a_newline_shows_at_once() -> None:
    stream = Masker([SECRET]).stream()

    assert stream.feed(b"Password: ") == b"Password: "


def test_only_the_beginning_of_a_secret_is_held_and_shown_at_the_end() -> None:
    stream = Masker([SECRET]).stream()

    assert stream.feed(b"so far " + SECRET[:5]) == b"so far "
    assert stream.flush_idle() == b""
    assert stream.feed(b"!") == SECRET[:5] + b"!"
    assert stream.feed(SECRET[:3]) == b""
    assert stream.close() == SECRET[:3]


def test_a_whole_secret_shows_as_masked_although_a_longer_one_may_follow() -> None:
    stream = Masker([b"abcdef", b"abcdefghijkl"]).stream()

    assert stream.feed(b"abcdefgh") == b"[REDACTED]"
    assert stream.feed(b"ijkl.") == b"."
    assert stream.feed(b"abcdefgh!") == b"[REDACTED]gh!"


def test_streams_of_one_masker_do_not_mix() -> None:
    masker = Masker([SECRET])
    out, err = masker.stream(), masker.stream()

    shown = out.feed(SECRET[:6]) + err.feed(SECRET[6:]) + out.close() + err.close()

    assert shown == SECRET[6:] + SECRET[:6]


# --- registration while it runs -------------------------------------------------------------------


def test_log_11_a_secret_registered_while_running_is_masked_from_then_on() -> None:
    masker = Masker([SECRET])
    stream = masker.stream()
    randomness = random.Random(11)

    for _ in range(1_000):
        late = randomness.randbytes(12).hex()
        masker.add([late])
        assert stream.feed(late.encode() + b"\n").endswith(b"[REDACTED]\n")


def test_log_11_registration_by_one_thread_while_another_masks() -> None:
    masker = Masker()
    stream = masker.stream()
    secrets = [f"secret-number-{number:04}-x" for number in range(200)]
    registered: list[int] = []
    leaks: list[bytes] = []

    def register() -> None:
        for secret in secrets:
            masker.add([secret])
            registered.append(1)

    thread = threading.Thread(target=register)
    thread.start()
    while thread.is_alive() or len(registered) < len(secrets):
        known = len(registered)
        shown = stream.feed("".join(f"<{secret}>" for secret in secrets[:known]).encode())
        leaks += [shown] if b"secret-number" in shown else []
    thread.join()

    assert leaks == []


def test_what_was_held_is_masked_by_a_secret_registered_meanwhile() -> None:
    masker = Masker([b"abcdefgh"])
    stream = masker.stream()
    shown = stream.feed(b"abcd")

    masker.add([b"abcdXYZ"])

    assert shown + stream.feed(b"XYZ.") == b"[REDACTED]."


# --- against the oracle ---------------------------------------------------------------------------

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


CORPUS: Sequence[tuple[list[bytes], bytes, list[int]]] = [
    # a match inside what another pattern still holds
    ([b"xx abcdef yy zz", b"abcdef"], b"xx abcdef yy ab", [3, 9, 12]),
    # the end of a match begins another
    ([b"abcabc", b"abcxyz"], b"abcabcxyz abcabcabcxy", [5, 6, 7]),
    # touching runs, cut where they touch
    ([b"abcdef", b"ghijkl"], b"abcdefghijkl", [6]),
    ([b"abcdef", b"ghijkl"], b"abcdefghijkabcdef", [6, 11]),
    # a secret that overlaps itself by all but one byte
    ([b"aaaaaa", b"aaaaaaaaab"], b"aaaaaaaaaaaaaabaaaaa", [1, 6, 7, 13]),
    ([b"ababab"], b"abababababaXbabab", [5, 10, 11]),
    # one secret ends with the head of another, whose rest never comes
    ([b"abcdef", b"defghijklm"], b"abcdefghijk", [6, 8]),
    # a held prefix dies and leaves a shorter one alive
    ([b"aabaabaac"], b"aabaabaabaac", [8, 9]),
    # line breaks of both kinds within one secret
    ([b"line one\r\nline two\n"], b"line one\nline two\r\nline one\r\nline", [9, 18]),
    # the last byte of the text is the last but one of the secret
    ([b"secret-value"], b"secret-valu", [3]),
    # prefixes of every length, one inside the next
    ([b"abcdefgh"[:n] for n in (6, 7, 8)] + [b"cdefghij"], b"abcdefghij abcdefg cdefghi", [6, 7, 8, 9]),
]


@pytest.mark.timeout(120 if EXAMPLES <= 2_000 else 3_600)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(masking_cases())
@example(CORPUS[0])
def test_c17_masking_equals_the_oracle_for_any_chunking(case: tuple[list[bytes], bytes, list[int]]) -> None:
    secrets, data, places = case

    wanted = oracle(secrets, data)

    assert mask_in_pieces(Masker(secrets), cut(data, places)) == wanted
    assert mask_in_pieces(registered_singly(secrets), cut(data, places)) == wanted


@pytest.mark.parametrize("case", CORPUS)
def test_c17_the_stored_cases_equal_the_oracle_however_they_are_cut(
    case: tuple[list[bytes], bytes, list[int]],
) -> None:
    secrets, data, places = case
    masker = registered_singly(secrets)

    wanted = oracle(secrets, data)

    assert mask_in_pieces(masker, cut(data, places)) == wanted
    for pair in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert mask_in_pieces(masker, cut(data, pair)) == wanted


def test_the_search_without_the_automaton_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "ahocorasick_rs", None)

    for secrets, data, places in CORPUS:
        assert mask_in_pieces(Masker(secrets), cut(data, places)) == oracle(secrets, data)


# --- size -----------------------------------------------------------------------------------------


def test_a_thousand_secrets_are_masked() -> None:
    randomness = random.Random(17)
    secrets = [randomness.randbytes(15).hex() for _ in range(1_000)]
    data = b"\n".join(f"{number} <{secret}>".encode() for number, secret in enumerate(secrets))

    shown = Masker(secrets).mask(data)

    assert shown == b"\n".join(f"{number} <[REDACTED]>".encode() for number in range(1_000))


def test_a_very_long_secret_is_masked_and_holds_back_little() -> None:
    secret = random.Random(5).randbytes(60_000).hex().encode()
    stream = Masker([secret]).stream()

    shown = stream.feed(b"<" + secret[: 5 * PIECE_BYTES])
    rest = stream.feed(secret[5 * PIECE_BYTES :] + b">") + stream.close()

    assert shown + rest == b"<[REDACTED]>"
    assert shown == b"<[REDACTED]"


@pytest.mark.parametrize(
    "secrets",
    [[b"a" * length for length in range(6, 120)], [b"a" * 3_000 + b"b"], [b"ab" * 400 + b"c", b"ba" * 300]],
)
@pytest.mark.timeout(20)
def test_text_made_to_match_everywhere_costs_bounded_time(secrets: list[bytes]) -> None:
    masker = Masker(secrets)

    shown = masker.mask(b"a" * 500_000 + b"ab" * 100_000)

    assert len(shown) <= 700_000
