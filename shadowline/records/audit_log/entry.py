"""One entry of the audit log, and the rules that make a chain of entries valid.

    hash      = sha256 of the JSON list [number, at, by, kind, subject, body, previous, key], without blanks
    signature = Ed25519 over the 32 bytes of the hash, by the private half of `key`

The first entry follows sixty-four zeros, introduces the first key, and is signed with it. A later entry of kind `key`
introduces the next key and is signed with the key before, which signs nothing from then on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

BEGINNING = "0" * 64  # `previous` of the first entry


class EntryKind(StrEnum):
    """What an entry is about."""

    KEY = "key"  # a key that signs from here on
    TRAINING = "training"  # a retraining or enrolment ended, well or not
    REGISTRATION = "registration"  # a version was registered, with its verdict
    LEGACY = "legacy"  # a legacy model, or a new product's starter, was registered
    CONFIGURATION = "configuration"  # params.yaml differs from that of the version before
    THRESHOLD = "threshold"  # a class decides by another threshold than in the version before
    PROMOTION = "promotion"  # a version became champion
    ENROLMENT = "enrolment"  # a new product was enrolled, or its enrolment went on
    APPROVAL = "approval"  # a person approved a phase
    REFUSAL = "refusal"  # a person refused to approve it
    ORDER = "order"  # a person ordered: roll back, hold, resume; or the engine carried it out
    PHASE = "phase"  # a class moved in its rollout, or changed in another way, or people were notified
    RETUNE = "retune"  # a class got another threshold, by which its stored pairs were decided again
    EVIDENCE = "evidence"  # an item of the decommissioning checklist was put on record
    FEEDBACK = "feedback"  # an inspector gave an image a label
    LOCATION = "location"  # where the model with a fingerprint is loaded from
    CHAMPION = "champion"  # which model of a class the registry's champion holds; null where it holds none
    PAIRS = "pairs"  # the pairs of one class that were received in one hour, by the root of a Merkle tree
    DELETION = "deletion"  # a model is about to be deleted
    REPRODUCTION = "reproduction"  # a version was reproduced, and compared
    DECISION = "decision"  # the record of one inspected part was written
    BACKUP = "backup"  # a backup was made or restored


@dataclass(frozen=True)
class Record:
    """An event, before it is written as a note."""

    kind: EntryKind
    subject: str  # what it is about: a class, a version, a key
    body: Mapping[str, Any]  # JSON values
    by: str
    at: datetime  # UTC

    @property
    def noted(self) -> PendingEntry:
        """The record as a note. Raises ValueError for a time without a zone, and for NaN."""
        body = json.dumps(self.body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return PendingEntry(timestamp(self.at), self.by, str(self.kind), self.subject, body)


def json_sha256(value: Any) -> str:
    """sha256, hex, of a JSON value with sorted keys and without blanks."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class PendingEntry:
    """A record in exactly the text that is stored, and signed when it is sealed."""

    at: str  # UTC, ISO 8601 with microseconds; sorts as time does
    by: str
    kind: str
    subject: str
    body: str  # JSON


@dataclass(frozen=True)
class Entry:
    """A sealed note: its number in the chain, the fields of the note, hashes and signature."""

    number: int  # 1, 2, 3, … without a gap
    at: str
    by: str
    kind: str
    subject: str
    body: str
    previous: str  # hash of the entry before
    key: str  # name of the key that signed
    hash: str  # sha256, hex
    signature: str  # Ed25519, hex

    @property
    def facts(self) -> dict[str, Any]:
        """The body, parsed."""
        body: dict[str, Any] = json.loads(self.body)
        return body

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


FIELDS = tuple(field.name for field in fields(Entry))


class Signer(Protocol):
    """A private key; see `shadowline.records.audit_log.keys`."""

    @property
    def name(self) -> str: ...
    def sign(self, data: bytes) -> bytes: ...


def next_entry(note: PendingEntry, last: Entry | None, signer: Signer) -> Entry:
    """The note as the entry that follows `last`, signed."""
    number, previous = (last.number + 1, last.hash) if last else (1, BEGINNING)
    signed = (number, note.at, note.by, note.kind, note.subject, note.body, previous, signer.name)
    digest = digest_of(*signed)
    return Entry(*signed, hash=digest.hex(), signature=signer.sign(digest).hex())


def timestamp(at: datetime) -> str:
    """UTC with microseconds, ISO 8601, always of the same length. Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"audit: time {at} has no time zone; give UTC")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def digest_of(*signed: int | str) -> bytes:
    """sha256 of the first eight fields of an entry."""
    return hashlib.sha256(json.dumps(signed, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True)
class ChainVerification:
    """The result of verifying a chain."""

    num_entries: int  # sound ones, from the beginning on
    last: Entry | None  # the last sound one
    first_bad: int | None = None  # number that the first faulty entry should have; None: all are sound
    reason: str = ""
    witnessed: int = 0  # number of the last entry that is known outside of the database

    @property
    def sound(self) -> bool:
        return self.first_bad is None


class ChainVerifier:
    """Verifies a chain entry by entry, from its beginning or from an entry that is known to be sound."""

    def __init__(self, trusted: Mapping[str, str], after: Entry | None = None) -> None:
        """`trusted`: name → public key (hex) of the first key at least; of every key so far, where `after` is given.

        Where it is empty, the key that the first entry introduces is trusted: this proves that the entries form a
        chain, but not whose.
        """
        self._keys, self._trusts = dict(trusted), bool(trusted)
        self._last, self._count = after, 0
        self._signing = _key_after(after) if after else None  # None: the first entry says
        self.introduced: set[str] = {self._signing} if self._signing else set()  # names

    def check(self, entries: Iterable[Entry]) -> ChainVerification:
        """Verify further entries, after those of earlier calls; stops at the first faulty entry."""
        for entry in entries:
            reason = _form_fault(entry) or self._place_fault(entry) or self._signature_fault(entry)
            reason = reason or self._key_fault(entry)
            if reason:
                return ChainVerification(self._count, self._last, self._number, f"entry {self._number}: {reason}")
            self._last, self._count, self._signing = entry, self._count + 1, _key_after(entry)
        return ChainVerification(self._count, self._last)

    @property
    def _number(self) -> int:
        """The number that the next entry has to have."""
        return self._last.number + 1 if self._last else 1

    def _place_fault(self, entry: Entry) -> str:
        if entry.number != self._number:
            return f"not there; one with number {entry.number} stands in its place"
        if entry.previous != (self._last.hash if self._last else BEGINNING):
            return "does not follow the entry before it"
        if entry.hash != digest_of(*(getattr(entry, name) for name in FIELDS[:8])).hex():
            return "was edited: its hash is not that of its content"
        return ""

    def _signature_fault(self, entry: Entry) -> str:
        if self._signing is None and (entry.kind != EntryKind.KEY or entry.subject != entry.key):
            return "does not introduce the key that signs it"
        if self._signing is None and self._trusts and entry.key not in self._keys:
            return f"begins the chain with key {_shown(entry.key)}, which nobody trusts"
        if self._signing is not None and entry.key != self._signing:
            return f"is signed with key {_shown(entry.key)}, where {_shown(self._signing)} has to sign"
        if not is_signed(entry, self._keys.get(entry.key) or public_key_in(entry)):
            return f"its signature is not one of key {_shown(entry.key)}"
        return ""

    def _key_fault(self, entry: Entry) -> str:
        if entry.kind != EntryKind.KEY:
            return ""
        if entry.subject in self.introduced:
            return f"introduces key {_shown(entry.subject)} again"
        public = public_key_in(entry)
        if self._keys.setdefault(entry.subject, public) != public or not public:
            return f"introduces another key {_shown(entry.subject)} than the one that is trusted"
        self.introduced.add(entry.subject)
        return ""


def is_signed(entry: Entry, public: str) -> bool:
    """Whether the entry's hash is signed with the key, and the signature written in lower-case hex."""
    try:
        signature = bytes.fromhex(entry.signature)
        _public_key(public).verify(signature, bytes.fromhex(entry.hash))
    except (InvalidSignature, ValueError):
        return False
    return entry.signature == signature.hex()


@lru_cache
def _public_key(public: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def _key_after(entry: Entry) -> str:
    """The name of the key that has to sign the next entry."""
    return entry.subject if entry.kind == EntryKind.KEY else entry.key


def _form_fault(entry: Entry) -> str:
    """A field of a wrong type: SQLite keeps whatever an attacker puts into a column: bytes, NULL, numbers."""
    number, *texts = (getattr(entry, name) for name in FIELDS)
    return "" if type(number) is int and all(type(text) is str for text in texts) else "holds what no entry can hold"


def public_key_in(entry: Entry) -> str:
    """The public half, hex, that the entry of a key states; empty where it states none."""
    try:
        body = json.loads(entry.body)
    except (ValueError, RecursionError):
        return ""
    public = body.get("public_key") if isinstance(body, dict) else None
    return public if isinstance(public, str) else ""


def _shown(name: str) -> str:
    """A name from an unverified entry: in quotes, printable, and short."""
    return repr(name[:64])
