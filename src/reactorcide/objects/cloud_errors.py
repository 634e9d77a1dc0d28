"""What an error of the obstore driver means: an error of the port, with words an operator can act on.

The driver puts what a service answered into its texts and nowhere else; here, and only here, they are read.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from reactorcide.domain.errors import ReactorcideError
from reactorcide.objects.port import ObjectNotFound, StoreRefused, StoreUnavailable


class Operation(StrEnum):
    """What was asked of a bucket, each with a right of its own."""

    PUT = "put"
    GET = "get"
    LIST = "list"
    DELETE = "delete"


@dataclass(frozen=True)
class Bucket:
    """A bucket in the words of its operator."""

    name: str
    service: str
    """S3 or GCS, and where."""
    rights: dict[Operation, str]
    credentials: str
    """By which settings the credentials come."""
    region: str | None = None


_BAD_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidClientTokenId", "ExpiredTokenException", "InvalidIdentityToken", "AuthenticationRequired"),
    *("UnrecognizedClientException", "AccountProblem", "NotSignedUp", "InvalidSecurity"),
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CREDENTIAL_HOSTS = {
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),
    *("metadata.google.internal", "metadata", "oauth2.googleapis.com", "sts.googleapis.com"),
    *("accounts.google.com", "iamcredentials.googleapis.com"),
}

_NO_TLS = "what listens there has no certificate that is trusted, or speaks no TLS"
_REQUEST = re.compile(r"Error performing ([A-Z]+) (\S+) in")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,500})</Message>")
_CAUSE = re.compile(r'(?:message|error): "([^"]{1,300})"')


@dataclass(frozen=True)
class Answer:
    """What came instead of success."""

    url: str
    status: int | None
    """None: no answer came at all."""
    code: str
    """Of S3 and of the XML API of GCS; empty if what answered is neither, or said nothing."""
    said: str

    @classmethod
    def read(cls, error: Exception) -> "Answer":
        """Read the text of a driver's error."""
        told, _, debug = str(error).partition("\n\nDebug source")
        request, status = _REQUEST.search(told), _STATUS.search(told)
        code, message = _CODE.search(told), _MESSAGE.search(told)
        if message is not None:
            said = message[1]
        elif status is not None:
            said = f"status {status[1]}"
        else:
            said = _find_cause(debug) or told.rpartition(" - ")[2][:300]
        return cls(
            request[2] if request else "", int(status[1]) if status else None, code[1] if code else "", said
        )

    @property
    def is_about_credentials(self) -> bool:
        """Whether this came from where credentials are had, and not from the bucket."""
        host = urlsplit(self.url).hostname or ""
        if not host and self.status is None:
            return "token file" in self.said or "redential" in self.said
        return host in _CREDENTIAL_HOSTS or (host.startswith("sts.") and ".amazonaws." in host)

    @property
    def is_missing_key(self) -> bool:
        """Whether the bucket is there and says that the object is not."""
        return self.status == 404 and self.code == "NoSuchKey"


def _find_cause(debug: str) -> str:
    if causes := _CAUSE.findall(debug):
        return str(causes[-1])
    if "TimedOut" in debug or "kind: Timeout" in debug:
        return "no answer in time"
    if "InvalidMessage" in debug or "InvalidCertificate" in debug:
        return _NO_TLS
    return ""


def port_error(error: Exception, operation: Operation, bucket: Bucket, key: str = "") -> ReactorcideError:
    """Return the port's error for one of the driver's; never ObjectExists, which the caller knows of.

    A missing object is only one of which the service itself says so: a bucket that is missing, or something
    else that answers 404 in its place, must not make objects look deleted.
    """
    answer = Answer.read(error)
    where = f"the bucket {bucket.name!r} ({bucket.service})"
    said = f"{answer.code}: {answer.said}" if answer.code else answer.said
    if answer.is_about_credentials:
        return StoreRefused(
            f"no credentials for {where}: {bucket.credentials}; the machine was asked for some, too: {said}"
        )
    if answer.is_missing_key:
        return ObjectNotFound(key)
    if answer.code in _BAD_CREDENTIALS or isinstance(error, UnauthenticatedError):
        return StoreRefused(f"{where} refuses the credentials: {said}; {bucket.credentials}")
    if answer.code == "RequestTimeTooSkewed":
        return StoreRefused(f"{where} finds the clock of this machine wrong: {said}")
    if answer.code in _WRONG_REGION or "BareRedirect" in str(error):
        return StoreRefused(f"{where} is not in region {bucket.region}: {said}; set AWS_REGION")
    if answer.code in ("NoSuchBucket", "InvalidBucketName"):
        return StoreRefused(f"there is no bucket {bucket.name!r} ({bucket.service}): OBJECT_STORE_BUCKET")
    if answer.status == 403 or isinstance(error, PermissionDeniedError):
        right = bucket.rights[operation]
        return StoreRefused(f"{where} refuses to {operation}: {said}; the credentials need {right}")
    if answer.said == _NO_TLS:
        return StoreRefused(f"{where} cannot be spoken to: {answer.said}")
    if answer.status is None and answer.said:
        return StoreUnavailable(f"{where} cannot be reached: {answer.said}")
    if answer.status in (404, 405, 400) and not answer.code and operation is not Operation.DELETE:
        return StoreRefused(f"what answers for {where} does not speak its protocol: {said}")
    return StoreUnavailable(f"{where} failed to {operation}: {said}")
