"""The one rule for keys and ranges, kept by every backend before it touches anything."""

from reactorcide.objects.port import InvalidKey
from runnerlib.spec.rules import has_control_characters

MAX_KEY_BYTES = 1_024
MAX_COMPONENT_BYTES = 255


def check_key(key: str) -> None:
    """Refuse a key that some backend could not keep as it is, or could take for a way out.

    A key is components joined by ``/``: no empty one, no ``.`` and no ``..``, so neither a leading nor
    a trailing slash; no backslash and no control character. Dots inside a component are plain bytes:
    ``v1..v2.log`` is a key.

    Raises:
        InvalidKey: the text says what is wrong.
    """
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise InvalidKey("a key must be valid UTF-8") from None
    if not 1 <= len(encoded) <= MAX_KEY_BYTES:
        raise InvalidKey(f"a key has 1 to {MAX_KEY_BYTES} bytes")
    if "\\" in key or has_control_characters(key):
        raise InvalidKey("a key holds no backslash and no control character")
    for component in key.split("/"):
        if component in ("", ".", ".."):
            raise InvalidKey("a component of a key is neither empty nor '.' nor '..'")
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            raise InvalidKey(f"a component of a key has at most {MAX_COMPONENT_BYTES} bytes")


def is_key(key: str) -> bool:
    """Tell whether `check_key` lets a key pass."""
    try:
        check_key(key)
    except InvalidKey:
        return False
    return True


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that is neither empty nor a key followed by ``/``. Raises InvalidKey."""
    if not prefix:
        return
    if not prefix.endswith("/"):
        raise InvalidKey("a prefix is empty or ends with '/'")
    check_key(prefix[:-1])


def check_range(start: int, length: int | None) -> None:
    """Refuse a range that is none. Raises ValueError: the caller has a bug."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"a range from {start} of {length} bytes")
