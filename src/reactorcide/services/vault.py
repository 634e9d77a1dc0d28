"""The vault: a job's secrets at rest, sealed with AES-256-GCM and bound to their job."""

import hashlib
import secrets as random_source
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reactorcide.domain.errors import Misconfigured
from reactorcide.services.private_files import keep_private_text

_FORMAT = b"\x01"
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12
_KEY_FILE = "encryption-key"


class Vault:
    """Seals and opens the secrets of jobs with one key.

    A record is the format's byte, the id of the key, a random nonce, and the ciphertext; the job's id is
    authenticated with it, so that a record moved to another job does not open.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("the key must be 32 bytes")
        self._cipher = AESGCM(key)
        self._key_id = hashlib.sha256(b"reactorcide key id" + key).digest()[:_KEY_ID_BYTES]

    def seal(self, job_id: str, secrets: dict[str, str]) -> bytes:
        """Return the record to keep for ``job_id``."""
        nonce = random_source.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(secrets), job_id.encode())
        return _FORMAT + self._key_id + nonce + sealed

    def open(self, job_id: str, record: bytes) -> dict[str, str]:
        """Return the secrets that were sealed for ``job_id``.

        Raises:
            Misconfigured: the record was sealed with another key, for another job, or is damaged.
        """
        head = len(_FORMAT) + _KEY_ID_BYTES
        if record[:head] != _FORMAT + self._key_id:
            raise Misconfigured("the secrets of this job were sealed with another ENCRYPTION_KEY")
        nonce, sealed = record[head : head + _NONCE_BYTES], record[head + _NONCE_BYTES :]
        try:
            plain = self._cipher.decrypt(nonce, sealed, job_id.encode())
        except (InvalidTag, ValueError) as error:
            raise Misconfigured("the sealed secrets of this job are damaged") from error
        return msgspec.json.decode(plain, type=dict[str, str])


def load_key(hex_digits: str | None, data_dir: Path) -> bytes:
    """Return the configured key, else that of ``data_dir``, made there once for its owner's eyes only.

    Raises:
        Misconfigured: what is there is not 64 hexadecimal digits.
    """
    path = data_dir / _KEY_FILE
    if hex_digits is None:
        hex_digits = keep_private_text(path, random_source.token_hex(32))
    try:
        key = bytes.fromhex(hex_digits)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise Misconfigured(f"the encryption key (ENCRYPTION_KEY or {path}) must be 64 hexadecimal digits")
    return key
