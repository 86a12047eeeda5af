"""One entry of the audit chain, and the law by which a chain is sound.

    hash      = sha256 of the JSON list [number, at, by, kind, subject, body, previous, key], without blanks
    signature = Ed25519 over the 32 bytes of the hash, by the private half of `key`

The first entry follows sixty-four zeros, introduces the first key, and is signed with it. A later entry of kind `key`
introduces the next key and is signed with the one before; from then on that one signs nothing.
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

BEGINNING = "0" * 64  # what the first entry follows


class EntryKind(StrEnum):
    """What an entry is about."""

    KEY = "key"  # a key that signs from here on
    TRAINING = "training"  # a retraining or enrolment ended, well or not
    REGISTRATION = "registration"  # a version was registered, with its verdict
    LEGACY = "legacy"  # a legacy model, or a new product's starter, was registered
    CONFIGURATION = "configuration"  # params.yaml differs from that of the version before
    THRESHOLD = "threshold"  # a class decides by another threshold than in the version before
    PROMOTION = "promotion"  # a version became champion
    ENROLMENT = "enrolment"  # a new product came in, or further
    APPROVAL = "approval"  # a person opened a phase
    REFUSAL = "refusal"  # a person refused to open it
    ORDER = "order"  # a person told the engine: roll back, hold, resume; or the engine obeyed
    PHASE = "phase"  # a class moved in its rollout, or changed in another way, or people were told something
    RETUNE = "retune"  # a class got another threshold, by which its stored pairs were decided again
    EVIDENCE = "evidence"  # an item of the decommissioning checklist was put on record
    FEEDBACK = "feedback"  # an inspector gave an image a label
    LOCATION = "location"  # where the model with a fingerprint is loaded from
    CHAMPION = "champion"  # which model of a class the registry's champion holds; none where it holds none
    PAIRS = "pairs"  # the pairs of one class that were received in one hour, by the root of a Merkle tree
    DELETION = "deletion"  # a model is about to be deleted
    REPRODUCTION = "reproduction"  # a version was made again, and compared
    DECISION = "decision"  # the record of one inspected part was drawn up
    BACKUP = "backup"  # a backup was made or restored


@dataclass(frozen=True)
class Record:
    """What happened, before it has its place in the chain."""

    kind: EntryKind
    subject: str  # what it is about: a class, a version, a key
    body: Mapping[str, Any]  # JSON values
    by: str
    at: datetime  # UTC

    @property
    def noted(self) -> PendingEntry:
        """Raises ValueError for a time without a zone, and for NaN."""
        body = json.dumps(self.body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return PendingEntry(timestamp(self.at), self.by, str(self.kind), self.subject, body)


def json_sha256(value: Any) -> str:
    """sha256, hex, of a JSON value with sorted keys and without blanks."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class PendingEntry:
    """A record as the very text that is kept, and signed when it gets its place."""

    at: str  # UTC, ISO 8601 with microseconds; sorts as time does
    by: str
    kind: str
    subject: str
    body: str  # JSON


@dataclass(frozen=True)
class Entry:
    """A note in its place: the fields of one, between its number and what binds it."""

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
        found: dict[str, Any] = json.loads(self.body)
        return found

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
    """UTC with microseconds, always as long. Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"audit: time {at} has no time zone; give UTC")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def digest_of(*signed: int | str) -> bytes:
    """sha256 of the first eight fields of an entry."""
    return hashlib.sha256(json.dumps(signed, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True)
class ChainVerification:
    """What a walk along the chain found."""

    num_entries: int  # sound ones, from the beginning on
    last: Entry | None  # the last sound one
    first_bad: int | None = None  # number that the first entry at fault should have; None: all are sound
    reason: str = ""
    witnessed: int = 0  # the last entry that something outside of the database knows

    @property
    def sound(self) -> bool:
        return self.first_bad is None


class ChainVerifier:
    """Entry after entry along a chain, from its beginning or on from an entry that is known to be sound."""

    def __init__(self, trusted: Mapping[str, str], after: Entry | None = None) -> None:
        """`trusted`: name → public key (hex) of the first key at least; of every key so far, where `after` is given.

        Empty, the first entry is taken at its word: then the chain is one, but nobody knows whose.
        """
        self._keys, self._trusts = dict(trusted), bool(trusted)
        self._last, self._count = after, 0
        self._signing = _key_after(after) if after else None  # None: the first entry says
        self.introduced: set[str] = {self._signing} if self._signing else set()  # names

    def check(self, entries: Iterable[Entry]) -> ChainVerification:
        """Goes on where the check before it ended; stops at the first entry at fault."""
        for entry in entries:
            reason = _form_fault(entry) or self._place_fault(entry) or self._signature_fault(entry)
            reason = reason or self._key_fault(entry)
            if reason:
                return ChainVerification(self._count, self._last, self._number, f"entry {self._number}: {reason}")
            self._last, self._count, self._signing = entry, self._count + 1, _key_after(entry)
        return ChainVerification(self._count, self._last)

    @property
    def _number(self) -> int:
        """What the next entry has to have."""
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
    """Whether the signature is the key's own, in the one way to write it."""
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
    """SQLite keeps whatever an attacker puts into a column: bytes, NULL, numbers."""
    number, *texts = (getattr(entry, name) for name in FIELDS)
    return "" if type(number) is int and all(type(text) is str for text in texts) else "holds what no entry can hold"


def public_key_in(entry: Entry) -> str:
    """What a key's entry says that its public half is; empty where it says nothing of the kind."""
    try:
        found = json.loads(entry.body)
    except (ValueError, RecursionError):
        return ""
    public = found.get("public_key") if isinstance(found, dict) else None
    return public if isinstance(public, str) else ""


def _shown(name: str) -> str:
    """Of an entry that nobody vouches for: in quotes, printable, and short."""
    return repr(name[:64])
