"""A token lies encrypted, and opens only for the user and the provider that it was sealed for.

AES-256 in Galois/Counter Mode (NIST SP 800-38D) with a fresh 96-bit nonce; user, provider and key are the associated
data, so that a row moved to another user does not open. The first key seals; all of them open, so that keys can change.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from podcastqa.errors import ProviderError, SettingsError
from podcastqa.file_lock import FileLock

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES, _NONCE_BYTES = 32, 12


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret at rest, and which key opens it."""

    key_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Vault:
    """Seals and opens; `keys` are 32 bytes each, the one in use first."""

    keys: tuple[bytes, ...] = field(repr=False)

    def seal(self, user_id: int, provider: str, secret: str) -> Sealed:
        """The secret, sealed for that user and provider."""
        key, nonce = self.keys[0], os.urandom(_NONCE_BYTES)
        said = _belongs(user_id, provider, key_id(key))
        return Sealed(
            key_id(key), base64.b64encode(nonce + _cipher(key).encrypt(nonce, secret.encode(), said)).decode()
        )

    def open(self, user_id: int, provider: str, sealed: Sealed) -> str:
        """The secret; raises ProviderError where no key opens it, or it was sealed for somebody else."""
        from cryptography.exceptions import InvalidTag

        key = next((one for one in self.keys if key_id(one) == sealed.key_id), None)
        if key is None:
            raise ProviderError(
                f"The key {sealed.key_id} that a login of {provider} was sealed with is not there.",
                next_step="Put it back behind the one in use, or connect again.",
                kind="reauth",
            )
        raw = base64.b64decode(sealed.text)
        try:
            said = _belongs(user_id, provider, sealed.key_id)
            return str(_cipher(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], said).decode())
        except InvalidTag:
            raise ProviderError(
                f"A login of {provider} does not open: it was changed, or sealed for another user.",
                next_step="Disconnect, and connect again.",
                kind="reauth",
            ) from None

    def is_current(self, sealed: Sealed) -> bool:
        """Whether it was sealed with the key in use."""
        return sealed.key_id == key_id(self.keys[0])


def key_id(key: bytes) -> str:
    """What a key is called: nothing of it can be told from that."""
    return hashlib.sha256(b"podcastqa key\x00" + key).hexdigest()[:12]


def vault_of(said: str, file: Path) -> Vault:
    """The keys of the setting, else of the file, one a line; a file that is not there is made, for its owner only.

    Raises SettingsError where a key is none, or others may read the file.
    """
    if said:
        return Vault(_keys(said.replace(",", " ").split(), "PODCASTQA_KEYS"))
    try:
        if not file.exists():
            _make(file)
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise SettingsError(f"Others may read the key file {file}.", next_step=f"Close it: chmod 600 {file}")
        words = file.read_text(errors="replace").split()
    except OSError as problem:
        raise SettingsError(f"The key file {file} cannot be read ({problem.strerror}).") from problem
    return Vault(_keys(words, str(file)))


def _make(file: Path) -> None:
    """A file with a new key, for its owner only: there as a whole or not at all, and never in another's place."""
    with FileLock(file.with_name(f"{file.name}.lock")):
        if file.exists():  # another process was faster: its key is the one
            return
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(handle, "w") as made:
            made.write(base64.b64encode(os.urandom(_KEY_BYTES)).decode() + "\n")
            made.flush()
            os.fsync(made.fileno())
        os.replace(name, file)


def _keys(words: Sequence[str], where: str) -> tuple[bytes, ...]:
    keys = []
    for word in words:
        try:
            key = base64.b64decode(word, validate=True)
        except ValueError:  # letters that are none of base64's, too
            key = b""
        if len(key) != _KEY_BYTES:  # the key itself is never said
            raise SettingsError(
                f"{where} holds something that is no key of 32 bytes in base64.",
                next_step="Make one: head -c 32 /dev/urandom | base64",
            )
        keys.append(key)
    if not keys:
        raise SettingsError(f"{where} holds no key.", next_step="Make one: head -c 32 /dev/urandom | base64")
    return tuple(keys)


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _belongs(user_id: int, provider: str, key: str) -> bytes:
    return f"podcastqa|{user_id}|{provider}|{key}".encode()
