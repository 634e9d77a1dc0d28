"""S11, LOG-*: masking is a property of the byte stream, compared here with a whole-buffer oracle."""

import base64
import itertools
import json
import random
import re
import threading
import time
import urllib.parse

import pytest

from masking_oracle import cut, mask_in_pieces, oracle
from runnerlib.masking import REDACTED, Masker
from runnerlib.secret_forms import PIECE_BYTES

SECRET = b'tr0ub4dor&3 /+"x'
KEY = (
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz\n"
    b"c2gtZWQyNTUxOQAAACB/fCkFJqWxKLtB\n"
    b"short\n"
    b"-----END OPENSSH PRIVATE KEY-----\n"
)


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


def test_a_line_of_blanks_within_a_secret_is_no_secret() -> None:
    masker = Masker(["first line\n            \nsecond line"])

    assert masker.mask(b"            indented\nsecond line\n") == b"            indented\n[REDACTED]\n"


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


@pytest.mark.parametrize("text", [b"number" * 20_000, b"number-x " * 15_000, b"nnnnnnno" * 15_000])
@pytest.mark.timeout(20)
def test_many_secrets_with_one_beginning_cost_bounded_time(text: bytes) -> None:
    masker = Masker([*(f"number-{n:04}" for n in range(2_000)), *("n" * n for n in range(6, 800))])

    began = time.monotonic()
    masker.mask(text)
    seconds = time.monotonic() - began

    assert seconds < 5, seconds
