"""Rules on a job's input that are kept at submission and again on the host."""

import pytest

from runnerlib.spec import rules


@pytest.mark.parametrize(
    ("url", "secret", "shown"),
    [
        ("https://u:p%40ss@example.com/a", "p%40ss", "https://u:[REDACTED]@example.com/a"),
        ("https://t0ken@example.com/a", "t0ken", "https://[REDACTED]@example.com/a"),
        ("https://u:@example.com/a", "", "https://u:[REDACTED]@example.com/a"),
        ("https://example.com/a@b", None, "https://example.com/a@b"),
        ("https://u:[REDACTED]@example.com/a", None, "https://u:[REDACTED]@example.com/a"),
        ("ssh://git@example.com/a", None, "ssh://git@example.com/a"),
        ("ssh://git:pw@example.com/a", "pw", "ssh://git:[REDACTED]@example.com/a"),
        ("git@example.com:a/b", None, "git@example.com:a/b"),
    ],
)
def test_src_11_the_secret_in_a_url_is_known_and_hidden(url: str, secret: str | None, shown: str) -> None:
    assert rules.url_credential(url) == secret
    assert rules.redact_url(url) == shown


@pytest.mark.parametrize(
    ("path", "is_good"),
    [
        ("/job", True),
        ("/job/src/../x", True),
        ("/job/..", False),
        ("/jobs", False),
        ("job/src", False),
        ("", False),
        ("/job/a\0b", False),
        ("/job/" + "x" * 256, False),
        ("/job/" + "x" * 255, True),
    ],
)
def test_a_job_path_is_job_or_inside_it(path: str, *, is_good: bool) -> None:
    assert (rules.check_job_path(path) is None) == is_good


@pytest.mark.parametrize(
    ("path", "is_good"),
    [
        ("ci/job.env", True),
        ("a/../b", True),
        ("../x", False),
        (".", False),
        ("/job/x", True),
        ("/etc/x", False),
    ],
)
def test_an_env_file_lies_in_the_source_or_under_job(path: str, *, is_good: bool) -> None:
    assert (rules.check_env_file_path(path) is None) == is_good


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("1.2.3", "1.2.0.3"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_every_spelling_of_an_address_is_read_as_c_libraries_do(text: str, address: str) -> None:
    assert str(rules.written_address(text)) == address


@pytest.mark.parametrize("name", ["example.com", "256.1.1.1.1", "09.1.1.1", "1.2.3.256", "a.1"])
def test_a_name_is_no_address(name: str) -> None:
    assert rules.written_address(name) is None
