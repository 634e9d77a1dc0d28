"""Credentials of AWS as its own tools keep them: a file of profiles, read again as its keys are renewed."""

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from reactorcide.domain.errors import Misconfigured

if TYPE_CHECKING:
    from obstore.store import S3Credential

DEFAULT_PROFILE = "default"
READ_AGAIN_AFTER = timedelta(minutes=5)
_NOT_OURS = ("credential_process", "role_arn", "sso_session", "sso_account_id")


@dataclass(frozen=True)
class AwsKeys:
    """A key pair, and what belongs to it."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SharedProfile:
    """A profile of a shared credentials file.

    Called, it gives the driver the keys as the file has them now, to be asked for again some minutes later.
    """

    file: Path
    profile: str = DEFAULT_PROFILE

    def is_there(self) -> bool:
        """Tell whether the file can be read and has the profile. Raises Misconfigured if it is malformed."""
        return self._section() is not None

    def read(self) -> AwsKeys:
        """Return the keys. Raises Misconfigured: the text says what is wrong with the file."""
        section = self._section()
        if section is None:
            raise Misconfigured(
                f"{self.file} cannot be read or has no profile {self.profile!r}:"
                " AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE"
            )
        key_id, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
        if not key_id or not secret:
            ways = [name for name in _NOT_OURS if name in section]
            why = f"{', '.join(ways)} is not followed here; " if ways else ""
            raise Misconfigured(
                f"the profile {self.profile!r} of {self.file} has no aws_access_key_id and"
                f" aws_secret_access_key: {why}put keys there, or use a role of the machine"
            )
        return AwsKeys(key_id, secret, section.get("aws_session_token"))

    def __call__(self) -> "S3Credential":
        keys = self.read()
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": datetime.now(UTC) + READ_AGAIN_AFTER,
        }

    def _section(self) -> Mapping[str, str] | None:
        # Values may hold a percent sign, which is no reference to another one.
        parser = configparser.ConfigParser(interpolation=None, default_section="")
        try:
            parser.read_string(self.file.read_text(), source=str(self.file))
        except (OSError, UnicodeDecodeError):
            return None
        except configparser.Error as error:
            # The error's own text may quote a line that is a key.
            raise Misconfigured(f"{self.file} is no file of AWS profiles") from error
        return parser[self.profile] if parser.has_section(self.profile) else None
