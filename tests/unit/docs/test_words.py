"""Messages that the documents explain are messages of the code; terms of the glossary live where it says."""

from __future__ import annotations

import ast
import re
from functools import cache

from fixtures.documents import DOCS
from fixtures.learning import ROOT

_NEEDED = {  # terms that the glossary must explain
    "pair", "bank", "candidate", "champion", "challenger", "legacy model", "starter", "wave", "phase", "guard", "tick",
    "settled", "target false-positive rate", "production day", "verdict", "gate", "fingerprint", "audit log", "anchor",
    "evidence pack", "outbox",
}  # fmt: skip


@cache
def texts_of_the_code() -> str:
    """Every text in the code, pieces of formatted ones included, one a line."""
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("shadowline", "tasks", "flows")
        for path in (ROOT / folder).rglob("*.py")
    )
    return "\n".join(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def unknown_pieces(message: str) -> list[str]:
    """Pieces of a message between its `…` that no text of the code holds."""
    pieces = [piece.strip(" .") for piece in message.split("…")]
    return [piece for piece in pieces if len(piece) > 3 and piece not in texts_of_the_code()]


def test_messages_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([^`]*(?:…|;|:)[^`]*)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M
    )
    assert len(rows) > 40
    assert {message: found for message in rows if (found := unknown_pieces(message))} == {}


def test_a_message_that_nobody_says_is_found() -> None:
    assert unknown_pieces("unknown key …; have you tried …?") == ["; have you tried"]


def test_reasons_of_a_rollout_are_those_of_the_code() -> None:
    """The numbers and names in them are examples."""
    text = (DOCS / "concepts/rollout.md").read_text(encoding="utf-8")
    table = text.split("## Why a class waits")[1].split("##")[0]
    reasons = re.findall(r"^\| [^|]+ \| `([^`]+)` \|", table, re.M)
    assert len(reasons) > 12
    examples = r"[\d.]+%?|…|\[.*?\]|canary|nut|shadow|legacy model|candidate|disagreements|parts drawn for review"
    words = {reason: re.split(examples, reason) for reason in reasons}
    known = texts_of_the_code()
    wrong = [
        piece
        for pieces in words.values()
        for piece in (each.strip(" :;,'s") for each in pieces)
        if len(piece) > 12 and not all(part.strip() in known for part in re.split(r": |; |, ", piece))
    ]
    assert wrong == []


def test_the_glossary_has_the_terms() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.M
    )
    terms = [term.strip() for term, meaning, module in rows if "`" in module]
    assert len(terms) >= 40
    assert sorted(set(terms)) == sorted(terms)
    assert {term.lower() for term in terms} >= _NEEDED
    assert [term for term, meaning, _ in rows if not meaning.strip()] == []
