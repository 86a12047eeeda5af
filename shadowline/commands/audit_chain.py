"""`shadowline audit verify`, `log` and `keys`: whether the chain is whole, what it says, and who signs it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shadowline.audit.entry import Kind
from shadowline.commands.days import DAY, utc
from shadowline.commands.records import open_records
from shadowline.progress import Progress, default_progress

if TYPE_CHECKING:
    from shadowline.audit.chain import Chain, Witness
    from shadowline.audit.entry import Entry, Soundness

keys = typer.Typer(help="The keys that sign the chain, one after the other.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and '-'.")]
By = Annotated[str, typer.Option(help="Who says so.")]
_NUM_CHANGES, _WIDTH = 4, 64  # changes that the table of `log` shows, and letters of a value


def verify(
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HEX", help="A public key to trust, in place of those in the key folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash and signature of the chain, and that nothing of it is missing.

    Exit code 0: sound, 1: not, and the first entry at fault is named, 2: there is nothing to check it with.

    Example: `shadowline audit verify --trust key-1=9c1d…`
    """
    chain = open_records().chain
    trusted = dict(_key(one) for one in trust) if trust else None
    found = chain.verify(Progress() if as_json else default_progress(), trusted, _witnesses())
    if as_json:
        typer.echo(json.dumps(_as_dict(found, chain)))
    else:
        _say(found, chain)
    raise typer.Exit(0 if found.sound else 1)


def log(
    subject: Annotated[str, typer.Option("--subject", "--class", help="Only about this class, version, key, …")] = "",
    kind: Annotated[list[Kind] | None, typer.Option(help="Only of this kind; may be repeated.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=DAY, help="Not before this day, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=DAY, help="Before this day, UTC.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What was done, when and by whom, in order; it does not check the chain.

    Example: `shadowline audit log --class solar_mono --kind phase --since 2026-01-05`
    """
    found = open_records().chain.entries(utc(since), utc(until), kind or (), subject)
    if as_json:
        for entry in found:
            typer.echo(json.dumps(entry.to_dict()))
        return
    table = Table("entry", "when", "by", "kind", "subject", "what")
    for entry in found:
        cells = (str(entry.number), entry.at[:16].replace("T", " "), entry.by, entry.kind, entry.subject, _short(entry))
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)


@keys.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Every key of the chain: its public half, and the entries that it signs.

    Example: `shadowline audit keys list`
    """
    found = list(open_records().chain.entries(kinds=[Kind.KEY]))
    ends = [one.number for one in found[1:]]
    rows = [
        {"name": one.subject, **one.facts, "by": one.by, "from_entry": one.number, "to_entry": end}
        for one, end in zip(found, [*ends, None], strict=False)
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("key", Column("public half", overflow="fold"), "introduced by", "entry", "signs to")
    for row in rows:
        table.add_row(row["name"], row["public_key"], row["by"], str(row["from_entry"]), str(row["to_entry"] or "now"))
    Console().print(table)


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
    typer.echo(f"entry {entry.number}: {name} signs from here on; keep its public half elsewhere: {name}={public}")


def _witnesses() -> list[Witness]:
    """What the registry knows, where it answers."""
    from tasks.audit import registry_witnesses
    from tasks.registry import STORE_ERRORS

    try:
        return registry_witnesses()
    except STORE_ERRORS as error:
        first_line = str(error).partition("\n")[0]
        typer.secho(
            f"the registry does not answer, and was not heard as a witness: {first_line}", fg="yellow", err=True
        )
        return []


def _key(text: str) -> tuple[str, str]:
    name, _, public = text.partition("=")
    try:
        whole = len(bytes.fromhex(public)) == 32
    except ValueError:
        whole = False
    if not whole or not name:
        raise ValueError(f"--trust {text}: need NAME=HEX with the 64 hex digits of a public key")
    return name, public.lower()


def _as_dict(found: Soundness, chain: Chain) -> dict[str, object]:
    waiting = {"num_noted": chain.num_noted(), "noted_since": chain.noted_since()}
    return {**asdict(found), "sound": found.sound, **waiting}


def _say(found: Soundness, chain: Chain) -> None:
    if found.last is not None:
        last = found.last
        typer.echo(f"{found.num_entries} entries in order, the last of {last.at[:19]} with hash {last.hash}")
    if chain.num_noted():
        typer.secho(f"{chain.num_noted()} notes wait to be sealed, since {chain.noted_since()}", fg="yellow")
    if found.sound:
        typer.secho("sound" if found.last else "sound: nothing is on record yet", fg="green")
    else:
        typer.secho(f"not sound from entry {found.first_bad} on: {found.reason}", fg="red")


def _short(entry: Entry) -> str:
    """The plain values of the body; what is nested by its name, but for a few changes."""
    try:
        facts = entry.facts
    except ValueError:  # which `verify` will not pass over
        return entry.body[:200]
    told = {name: "…" if isinstance(value, dict | list) else value for name, value in facts.items()}
    changed = facts.get("changed", {})
    if 0 < len(changed) <= _NUM_CHANGES:
        told["changed"] = ", ".join(f"{name} {one['from']} → {one['to']}" for name, one in changed.items())
    return ", ".join(f"{name}: {str(value)[:_WIDTH]}" for name, value in told.items() if value not in (None, ""))
