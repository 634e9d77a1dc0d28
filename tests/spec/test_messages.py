"""What a worker reads of a runner that may be newer than itself."""

import msgspec

from runnerlib.spec import RunResult, decode_event, decode_result, encode_line


def test_what_a_newer_runner_adds_is_passed_over() -> None:
    result = RunResult(
        status="completed", reason="ok", fault="none", log_length=0, log_sha256="0" * 64, isolation="none"
    )
    added = msgspec.json.encode(msgspec.to_builtins(result) | {"added_later": [1]})

    assert decode_result(added) == result
    assert decode_event(b'{"type":"log","length":3,"added_later":true}\n').length == 3  # type: ignore[union-attr]
    assert decode_result(encode_line(result)) == result
