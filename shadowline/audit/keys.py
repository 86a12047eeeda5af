"""The keys that sign the audit chain: files of one folder, named by people.

    <name>.pem     private half, PKCS 8, mode 0600; encrypted where SHADOWLINE_AUDIT_PASSPHRASE is set
    <name>.pub     public half, hex
    head.json      the last entry that was written with this folder, which tells a chain that was cut at its end

Whoever verifies a chain needs the public halves alone.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
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
from pydantic import SecretStr

from shadowline.atomic import replace_file, write_json
from shadowline.audit.entry import Entry
from shadowline.settings import Settings

FIRST_KEY = "key-1"  # where nobody has named one before the first entry
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Key:
    """A private key with its name; a `shadowline.audit.entry.Signer`."""

    name: str
    private: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data)

    @cached_property
    def public(self) -> str:
        """Hex of the 32 bytes."""
        return self.private.public_key().public_bytes_raw().hex()


@dataclass(frozen=True)
class Head:
    """The last entry that is known to have been written."""

    number: int
    hash: str


class KeyFolder:
    """Creates, loads and remembers; a private half never leaves its file but to sign."""

    def __init__(self, folder: Path, passphrase: SecretStr | None = None) -> None:
        self.folder, self._passphrase = folder, passphrase
        self._loaded: dict[str, Key] = {}

    def create(self, name: str) -> Key:
        """A new key. Raises ValueError for a name that is none or is taken."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"key '{name}': need 1 to 63 small letters, digits and '-'")
        if name in self.public():
            raise ValueError(f"key '{name}' is there already in {self.folder}; choose another name")
        key = Key(name, Ed25519PrivateKey.generate())
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replace_file(self._private(name)) as temporary:
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
        with replace_file(self.folder / f"{name}.pub") as temporary:
            temporary.write_text(key.public + "\n", encoding="ascii")
        return key

    def load(self, name: str) -> Key:
        """Raises ValueError for a key whose private half is not here, or does not open."""
        if name not in self._loaded:
            self._loaded[name] = self._read(name)
        return self._loaded[name]

    def public(self) -> dict[str, str]:
        """Name → public half, of every key in the folder."""
        return {path.stem: path.read_text(encoding="ascii").strip() for path in sorted(self.folder.glob("*.pub"))}

    @property
    def head(self) -> Head | None:
        path = self.folder / "head.json"
        return Head(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def remember(self, last: Entry) -> None:
        """`last` was written; what was written after it stays remembered."""
        head = self.head
        if head is None or last.number > head.number:
            write_json(self.folder / "head.json", {"number": last.number, "hash": last.hash})

    def _read(self, name: str) -> Key:
        path, password = self._private(name), self._passphrase
        if not path.is_file():
            raise ValueError(f"key '{name}' signs the audit chain, and {path} is not there; restore it from a backup")
        try:
            private = load_pem_private_key(
                path.read_bytes(), password.get_secret_value().encode() if password else None
            )
        except (ValueError, TypeError):  # their text says nothing that helps
            raise ValueError(f"{path}: does not open; check SHADOWLINE_AUDIT_PASSPHRASE") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(f"{path}: holds no Ed25519 key; restore it from a backup")
        return Key(name, private)

    def _private(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    @property
    def _encryption(self) -> KeySerializationEncryption:
        if self._passphrase is None:
            return NoEncryption()
        return BestAvailableEncryption(self._passphrase.get_secret_value().encode())


def open_keys() -> KeyFolder:
    """The folder that SHADOWLINE_AUDIT_KEYS names."""
    settings = Settings()
    return KeyFolder(settings.audit_keys, settings.audit_passphrase)
