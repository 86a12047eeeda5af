"""The keys that sign the audit chain: files of one folder, named by people.

    <name>.pem     private half, PKCS 8, mode 0600; encrypted where SHADOWLINE_AUDIT_PASSPHRASE is set
    <name>.pub     public half, hex
    head.json      the last entry that was written with this folder, which reveals a chain that was cut at its end

Verifying a chain needs only the public halves.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from filelock import FileLock
from pydantic import SecretStr

from shadowline.core.atomic_files import replace_private_file, write_json
from shadowline.core.settings import Settings
from shadowline.records.audit_log.entry import Entry

FIRST_KEY = "key-1"  # name of the first key, unless `Chain.rotate` has named one
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class SigningKey:
    """A private key with its name; a `shadowline.records.audit_log.entry.Signer`."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data)

    @cached_property
    def public(self) -> str:
        """The public half: hex of its 32 bytes."""
        return self.private.public_key().public_bytes_raw().hex()


@dataclass(frozen=True)
class ChainHead:
    """The last entry that is known to have been written."""

    number: int
    hash: str


class KeyFolder:
    """Creates and loads keys, and remembers the last entry; a private half is read only to sign.

    Every failure is a ValueError that names the file.
    """

    def __init__(self, folder: Path, passphrase: SecretStr | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase.get_secret_value().encode() if passphrase else b""
        self._loaded: dict[str, SigningKey] = {}

    def create(self, name: str) -> SigningKey:
        """A new key. Raises ValueError for a name that is invalid or taken."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"key '{name}': need 1 to 63 small letters, digits and '-'")
        with self._usable():
            if self._private(name).exists() or self._public(name).exists():
                raise ValueError(f"key '{name}' is there already in {self.folder}; choose another name")
            key = SigningKey(name, Ed25519PrivateKey.generate())
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(self._private(name), key.private.private_bytes(*_FORMAT, self._encryption), 0o600)
            self._publish(key)
        return key

    def obtain(self, name: str) -> SigningKey:
        """The key of that name: created where missing, its public half written where a kill has prevented that."""
        if not (self._private(name).exists() or self._public(name).exists()):
            return self.create(name)
        key = self.load(name)
        if not self._public(name).exists():
            self._publish(key)
        return key

    def load(self, name: str) -> SigningKey:
        """Raises ValueError for a key whose private half is not here, or does not open."""
        if name not in self._loaded:
            self._loaded[name] = self._read(name)
        return self._loaded[name]

    def public(self) -> dict[str, str]:
        """Name → public half, of every key in the folder."""
        with self._usable():
            return {path.stem: path.read_text(encoding="ascii").strip() for path in sorted(self.folder.glob("*.pub"))}

    @property
    def head(self) -> ChainHead | None:
        path = self.folder / "head.json"
        with self._usable():
            text = path.read_text(encoding="utf-8") if path.is_file() else None
        try:
            return ChainHead(**json.loads(text)) if text is not None else None
        except (ValueError, TypeError):
            raise ValueError(f"{path}: does not say which entry was the last; restore it from a backup") from None

    def remember(self, last: Entry) -> None:
        """Store `last` as the head, unless a later entry is stored already."""
        with self._usable(), FileLock(self.folder / "head.lock"):
            head = self.head
            if head is None or last.number > head.number:
                write_json(self.folder / "head.json", asdict(ChainHead(last.number, last.hash)))

    def _read(self, name: str) -> SigningKey:
        path = self._private(name)
        if not path.is_file():
            raise ValueError(f"key '{name}' signs the audit chain, and {path} is not there; restore it from a backup")
        with self._usable():
            pem = path.read_bytes()
        try:
            private = load_pem_private_key(pem, self._passphrase or None)
        except (ValueError, TypeError):  # their text does not help
            raise ValueError(f"{path}: does not open; check SHADOWLINE_AUDIT_PASSPHRASE") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(f"{path}: holds no Ed25519 key; restore it from a backup")
        return SigningKey(name, private)

    def _publish(self, key: SigningKey) -> None:
        self._write(self._public(key.name), f"{key.public}\n".encode("ascii"), 0o644)

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        """Write and fsync: an entry must not outlive the key that it is signed with."""
        with replace_private_file(path, mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"{error.filename or self.folder}: {error.strerror}; check SHADOWLINE_AUDIT_KEYS and who may use it"
            ) from None

    def _private(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def _public(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    @property
    def _encryption(self) -> KeySerializationEncryption:
        return BestAvailableEncryption(self._passphrase) if self._passphrase else NoEncryption()


_FORMAT = (Encoding.PEM, PrivateFormat.PKCS8)


def open_keys(settings: Settings | None = None) -> KeyFolder:
    """The folder that SHADOWLINE_AUDIT_KEYS, or `settings`, names."""
    settings = settings or Settings()
    return KeyFolder(settings.audit_keys, settings.audit_passphrase)
