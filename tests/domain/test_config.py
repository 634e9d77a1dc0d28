"""Settings from the environment."""

from pathlib import Path

import pytest

from reactorcide.config import describe_settings, load_settings, read_secret
from reactorcide.domain.errors import InvalidInput


def test_without_any_variable_everything_has_a_value() -> None:
    loaded = load_settings({})

    assert loaded.settings.port == 6080
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.warnings == ()


def test_the_prefixed_name_wins() -> None:
    loaded = load_settings({"PORT": "1", "REACTORCIDE_PORT": "2"})

    assert loaded.settings.port == 2
    assert loaded.sources["port"] == "REACTORCIDE_PORT"


def test_an_empty_value_counts_as_unset() -> None:
    assert load_settings({"REACTORCIDE_PORT": "", "PORT": ""}).settings.port == 6080


def test_every_fault_is_told_at_once_by_the_name_that_was_used() -> None:
    with pytest.raises(InvalidInput) as refused:
        load_settings(
            {"PORT": "x", "REACTORCIDE_DEFAULT_TIMEOUT": "0", "OBJECT_STORE_TYPE": "tape", "HEARTBEAT": "59"}
        )

    assert {fault.pointer for fault in refused.value.faults} == {
        "PORT",
        "REACTORCIDE_DEFAULT_TIMEOUT",
        "OBJECT_STORE_TYPE",
        "HEARTBEAT",
    }


def test_an_unknown_name_with_our_prefix_is_a_warning() -> None:
    loaded = load_settings({"REACTORCIDE_PROT": "1", "OTHER": "1", "REACTORCIDE_API_URL": "x"})

    assert loaded.warnings == ("REACTORCIDE_PROT is not a setting of this program",)


def test_a_secret_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "uri"
    file.write_text("postgresql://u:hidden@h/d\n")

    loaded = load_settings({"DB_URI_FILE": str(file)})

    assert loaded.settings.db_uri == "postgresql://u:hidden@h/d"
    assert "hidden" not in str(describe_settings(loaded))


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_settings({"DB_URI_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("written", "seeds"),
    [
        ("http://corndogs:8080", ("http://corndogs:8080",)),
        ("corndogs:5080", ("corndogs:5080",)),
        ("tcp://a:5080, tcp://b:5080,tcp://[::1]:5080", ("tcp://a:5080", "tcp://b:5080", "tcp://[::1]:5080")),
        ("grpcs://queue.example.org", ("grpcs://queue.example.org",)),
    ],
)
def test_an_address_of_corndogs_may_be_several_of_one_service(written: str, seeds: tuple[str, ...]) -> None:
    assert load_settings({"CORNDOGS_BASE_URL": written}).settings.corndogs_base_url == seeds


@pytest.mark.parametrize(
    "written", ["udp://a:1", "tcp://a:1,grpc://a:1", "tcp://", "a:99999", "a:1/path", "tcp://u:p@a:1", "a:x"]
)
def test_an_address_that_names_no_corndogs_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput, match="CORNDOGS_BASE_URL"):
        load_settings({"CORNDOGS_BASE_URL": written})


@pytest.mark.parametrize(
    "url",
    [
        "https://ci.example.org",
        "https://ci.example.org:8443/ci/",
        "http://127.0.0.1:6080",
        "http://[::1]:6080",
    ],
)
def test_net_06_a_coordinator_is_reached_where_nobody_reads_along(url: str) -> None:
    assert load_settings({"COORDINATOR_URL": url}).settings.coordinator_url == url.rstrip("/")


def test_net_06_plain_http_to_another_host_must_be_asked_for() -> None:
    given = {"COORDINATOR_URL": "http://ci.example.org"}

    with pytest.raises(InvalidInput, match="INSECURE_COORDINATOR=true"):
        load_settings(given)

    assert load_settings(given | {"INSECURE_COORDINATOR": "true"}).settings.insecure_coordinator


@pytest.mark.parametrize(
    "url",
    [
        "ci.example.org",
        "ftp://h",
        "https://",
        "https://u:p@h",
        "https://h/?a=b",
        "https://h:99999",
        "https://h/\n",
    ],
)
def test_a_coordinator_url_must_be_one(url: str) -> None:
    with pytest.raises(InvalidInput, match="must be a URL"):
        load_settings({"COORDINATOR_URL": url})


def test_certificate_and_key_go_together() -> None:
    with pytest.raises(InvalidInput) as refused:
        load_settings({"TLS_CERT_FILE": "/c.pem"})

    assert [fault.pointer for fault in refused.value.faults] == ["TLS_KEY_FILE"]


def test_a_secret_file_is_read_again_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    environ = {"WORKER_TOKEN_FILE": str(file)}
    first = load_settings(environ).settings.worker_token

    file.write_text("two\n")

    assert (first, read_secret(environ, "WORKER_TOKEN")) == ("one", "two")
