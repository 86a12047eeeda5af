"""`shadowline audit verify`, `log` and `keys`: verify the audit log, list its entries, and manage its keys."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.dates import DAY, utc
from shadowline.cli.output import Table, print_tables, say
from shadowline.cli.records import open_records
from shadowline.cli.who import By
from shadowline.core.progress import Progress, default_progress
from shadowline.records.audit_log.entry import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowline.records.audit_log.chain import Chain
    from shadowline.records.audit_log.entry import Entry
    from shadowline.records.audit_log.verification import Verification

keys = typer.Typer(help="The keys that sign the chain, one after the other.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and '-'.")]
_NUM_DIFFERENCES = 50  # that `verify` shows
_NUM_CHANGES, _WIDTH = 4, 64  # changes that the table of `log` shows, and characters of a value


def verify(
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HEX", help="A public key to trust, in place of those in the key folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash and signature of the chain, that nothing of it is missing, and all that it signs.

    The tables that decide, the pairs and the model registry are compared with the entries that sign them; what differs
    is named with what is signed and what is there.

    Exit code 0: sound, 1: not, 2: there is nothing to check it with.

    Example: `shadowline audit verify --trust key-1=9c1d…`
    """
    from tasks.integrations.audit_log import verify_all

    records = open_records()
    trusted = dict(_key(text) for text in trust) if trust else None
    verification = verify_all(records, trusted, Progress() if as_json else default_progress())
    if as_json:
        waiting = {"num_noted": records.chain.num_noted(), "noted_since": records.chain.pending_since()}
        typer.echo(json.dumps({**verification.to_dict(), **waiting}))
    else:
        _say(verification, records.chain)
    raise typer.Exit(0 if verification.sound else 1)


def log(
    subject: Annotated[str, typer.Option("--subject", "--class", help="Only about this class, version, key, …")] = "",
    kind: Annotated[list[EntryKind] | None, typer.Option(help="Only of this kind; may be repeated.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=DAY, help="Not before this day, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=DAY, help="Before this day, UTC.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What was done, when and by whom, in order; it does not check the chain.

    Example: `shadowline audit log --class solar_mono --kind phase --since 2026-01-05`
    """
    entries = open_records().chain.entries(utc(since), utc(until), kind or (), subject)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.to_dict()))
        return
    table = Table("entry", "when", "by", "kind", "subject", "what")
    for entry in entries:
        cells = (str(entry.number), entry.at[:16].replace("T", " "), entry.by, entry.kind, entry.subject, _short(entry))
        table.add_row(*cells)
    print_tables(table)


@keys.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Every key of the chain: its public half, and the entries that it signs.

    Example: `shadowline audit keys list`
    """
    entries = list(open_records().chain.entries(kinds=[EntryKind.KEY]))
    ends = [entry.number for entry in entries[1:]]
    rows = [
        {"name": entry.subject, **entry.facts, "by": entry.by, "from_entry": entry.number, "to_entry": end}
        for entry, end in zip(entries, [*ends, None], strict=False)
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("key", "public half", "introduced by", "entry", "signs to")
    for row in rows:
        table.add_row(row["name"], row["public_key"], row["by"], str(row["from_entry"]), str(row["to_entry"] or "now"))
    print_tables(table)


@keys.command("create")
def create(name: KeyName, by: By) -> None:
    """Make the first key and begin the chain with it; without this, the first thing on record makes a `key-1`.

    Example: `shadowline audit keys create plant-2026 --by Ada`
    """
    chain = open_records().chain
    if next(iter(chain.entries()), None) is not None:
        raise ValueError("audit chain: it has begun, and a key signs it; `shadowline audit keys rotate` changes it")
    _introduce(chain, name, by)


@keys.command("rotate")
def rotate(name: KeyName, by: By) -> None:
    """Make a new key, which signs from here on; the one before introduces it, and signs nothing after that.

    Example: `shadowline audit keys rotate plant-2027 --by Ada`
    """
    chain = open_records().chain
    chain.seal()  # what was noted until now is still the former key's
    if next(iter(chain.entries()), None) is None:
        raise ValueError("audit chain: no key signs it yet; `shadowline audit keys create` makes the first")
    _introduce(chain, name, by)


def _introduce(chain: Chain, name: str, by: str) -> None:
    entry = chain.rotate(name, by)
    public = entry.facts["public_key"]
    say(f"entry {entry.number}: {name} signs from here on; keep its public half elsewhere: {name}={public}")


def _key(text: str) -> tuple[str, str]:
    name, _, public = text.partition("=")
    try:
        whole = len(bytes.fromhex(public)) == 32
    except ValueError:
        whole = False
    if not whole or not name:
        raise ValueError(f"--trust {text}: need NAME=HEX with the 64 hex digits of a public key")
    return name, public.lower()


def _say(result: Verification, chain: Chain) -> None:
    if result.chain.last is not None:
        last = result.chain.last
        say(f"{result.chain.num_entries} entries in order, the last of {last.at[:19]} with hash {last.hash}")
    if chain.num_noted():
        say(f"{chain.num_noted()} notes wait to be sealed, since {chain.pending_since()}", colour="yellow")
    for line in _remarks(result):
        say(line, colour="yellow")
    for line in _faults(result):
        say(line, colour="red")
    if result.sound:
        say("sound" if result.chain.last else "sound: nothing is on record yet", colour="green")


def _remarks(result: Verification) -> Iterator[str]:
    """Warnings: what is not a fault, but should be known."""
    if result.registry.problem:
        yield (f"the registry does not answer, was not heard as a witness, and not compared: {result.registry.problem}")
    for table in result.tables:
        if table.num_pending:
            yield f"{table.table}: {table.num_pending} of {table.num_rows} rows are not sealed yet"
        if table.num_older:
            yield (
                f"{table.table}: {table.num_older} of {table.num_rows} rows are older than their full signature, and "
                "compared by what their entries say"
            )
    if result.num_late:
        yield f"pairs: {result.num_late} were sealed after others of their hour"
    if result.registry.num_older:
        yield f"registry: {result.registry.num_older} registrations are older than the signature of their metrics"
    if result.is_fresh and result.unwitnessed_since is not None:
        yield f"unwitnessed since entry {result.unwitnessed_since}: freshly begun, nothing outside knows of it yet"


def _faults(result: Verification) -> Iterator[str]:
    if not result.chain.sound:
        yield f"not sound from entry {result.chain.first_bad} on: {result.chain.reason}"
        yield "the tables and the registry were not compared: there is no chain to hold them to"
    for line in result.absent:
        yield f"witness absent: {line}"
    if result.chain.sound and result.unwitnessed_since is not None and not result.is_fresh:
        yield (
            f"unwitnessed since entry {result.unwitnessed_since}: nothing outside of the database knows of the entries "
            "from there on"
        )
    for difference in result.differences[:_NUM_DIFFERENCES]:
        yield str(difference)
    if len(result.differences) > _NUM_DIFFERENCES:
        yield f"and {len(result.differences) - _NUM_DIFFERENCES} more differences; --json lists them all"


def _short(entry: Entry) -> str:
    """The plain values of the body; nested values as …, except for a few changes."""
    try:
        facts = entry.facts
    except ValueError:  # `verify` reports it
        return entry.body[:200]
    shown = {name: "…" if isinstance(value, dict | list) else value for name, value in facts.items()}
    changed = facts.get("changed", {})
    if 0 < len(changed) <= _NUM_CHANGES:
        shown["changed"] = ", ".join(f"{name} {change['from']} → {change['to']}" for name, change in changed.items())
    return ", ".join(f"{name}: {str(value)[:_WIDTH]}" for name, value in shown.items() if value not in (None, ""))
