"""`shadowline rollout …`: plan, watch and steer the migration, class by class."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.running import check_records, running
from shadowline.cli.output import Table, print_tables, say
from shadowline.cli.records import open_records
from shadowline.cli.who import By
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.rollout.observation import Approval, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import NEW_PRODUCT, STAYS, changes_of_place

if TYPE_CHECKING:
    from shadowline.core.params import Params
    from shadowline.rollout.engine import RolloutStep
    from shadowline.rollout.state import ClassState, Event, RolloutState

app = typer.Typer(help="Move classes from their legacy models to the candidate, and back.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Classes = Annotated[list[str], typer.Argument(help="Product classes.")]
Why = Annotated[str, typer.Option(help="Why; it goes on record.")]


@app.command("plan")
def plan(
    waves: Annotated[Path, typer.Argument(help="The plan of `shadowline assess`, or any JSON with `waves`.")],
    by: By,
    without_legacy: Annotated[
        list[str] | None, typer.Option(help="A class that has no legacy model: its first model answers alone.")
    ] = None,
) -> None:
    """Roll the challenger out in the waves of a plan; every class starts with its legacy model.

    Waves come after those that are planned already. A class that has not begun to move may be named again: it changes
    its turn.

    Example: `shadowline rollout plan data/plan.json --by Ada`
    """
    from shadowline.rollout.plan import load_plan
    from tasks.rollout.tick import begin_rollout

    named = load_plan(waves).waves
    params, now = load_params(Layout().params), datetime.now(UTC)
    _print_state(begin_rollout(open_records(), named, params, now, by, without_legacy or ()))


@app.command("leave")
def leave(classes: Classes, by: By) -> None:
    """Take classes out of the plan: they stay with their legacy models, and no wave waits for them.

    Example: `shadowline rollout leave solar_mono --by Ada`
    """
    from shadowline.rollout.engine import leave as leave_plan

    store = open_records().rollout
    for name in classes:
        store.commit(leave_plan(store.state(), name, datetime.now(UTC), by))
    _print_state(store.state())


@app.command("status")
def status(as_json: JsonOption = False) -> None:
    """Phase, share and models of every class, what it waits for, and what is still to be done outside.

    Example: `shadowline rollout status`
    """
    from tasks.integrations.mlflow_registry import challenger_if_known
    from tasks.rollout.tick import look_ahead

    params, records = load_params(Layout().params), open_records()
    state, pending = records.rollout.state(), records.outbox.pending_actions()
    ahead = look_ahead(records, challenger_if_known(params.registry.model_name), datetime.now(UTC), params)
    if as_json:
        classes = [cls.to_dict() for cls in state.classes]
        todo = [{**entry.action.__dict__, "last_error": entry.last_error} for entry in pending]
        report = {"revision": state.revision, "classes": classes, "waiting": ahead.waiting, "pending": todo}
        typer.echo(json.dumps(report))
        return
    _print_state(state)
    _print_alarms(state)
    for name in _deleted_classes(state, params):
        say(f"{name} is not in params.yaml any more; `shadowline class remove {name}` retires it", colour="yellow")
    for line in ahead.waiting:
        say(f"waits for {line}", colour="yellow")
    for entry in pending:
        error = f": {entry.last_error}" if entry.last_error else ""
        say(f"to be done: {entry.action.kind} {entry.action.class_name}{error}", colour="yellow")


@app.command("advance")
def advance(as_json: JsonOption = False) -> None:
    """One tick: look at the evidence, move at most one step, do what that asks for.

    Exit code 0, or 1 when the tick rolled a class back.

    Example: `shadowline rollout advance`
    """
    with running(check_records):
        from flows.rollout import tick

        result = tick()
    moves = [event for event in result.events if event.is_move]
    if as_json:
        typer.echo(
            json.dumps(
                {"reason": result.reason, "waiting": result.waiting, "moves": [_as_dict(move) for move in moves]}
            )
        )
    else:
        _print_step(result)
    raise typer.Exit(1 if any(move.after.phase is Phase.ROLLED_BACK for move in moves) else 0)


@app.command("approve")
def approve(
    target: Annotated[Phase, typer.Argument(help="The phase that may be entered.")], classes: Classes, by: By
) -> None:
    """Allow classes to enter the phase that comes next, with exactly the models that they have now.

    Example: `shadowline rollout approve canary solar_mono solar_poly --by Ada`
    """
    from shadowline.rollout.engine import awaited_approval

    records, policy = open_records(), load_params(Layout().params).rollout
    state, now = records.rollout.state(), datetime.now(UTC)
    for name in classes:
        awaited = awaited_approval(state.of(name), policy)
        if target is not awaited:
            needs = f"what comes next and needs a person's word is {awaited}" if awaited else "nothing needs a word now"
            raise ValueError(f"class {name!r} is in {state.of(name).phase}: {needs}, not {target}")
    for name in classes:
        cls = state.of(name)
        records.approvals.approve(Approval(name, target, cls.legacy, cls.candidate, by), now)
        say(f"{name} may enter {target} with {cls.candidate[:12]} in the place of {cls.legacy[:12]}")


@app.command("hold")
def hold(classes: Classes, by: By, why: Why) -> None:
    """Stop the clock of classes; traffic stays as it is, hard guards still act.

    Example: `shadowline rollout hold solar_mono --by Ada --why "line is being rebuilt"`
    """
    _order(OrderKind.HOLD, classes, by, why)


@app.command("resume")
def resume(classes: Classes, by: By, why: Why) -> None:
    """Let held classes go on where they stood.

    Example: `shadowline rollout resume solar_mono --by Ada --why "line runs again"`
    """
    _order(OrderKind.RESUME, classes, by, why)


@app.command("rollback")
def rollback(classes: Classes, by: By, why: Why) -> None:
    """Give classes back to their legacy models, now.

    Example: `shadowline rollout rollback solar_mono --by Ada --why "complaint 4711"`
    """
    _order(OrderKind.ROLL_BACK, classes, by, why)
    advance()


@app.command("retune")
def retune(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="Product class.")],
    version: Annotated[str, typer.Option(help="Registered version; its threshold for the class is the new one.")],
    by: By,
    why: Why,
) -> None:
    """Give a class the threshold of another version: its stored pairs are decided again, no new shadow mode.

    Only where both models judge, where nothing but the threshold differs, and where few decisions change; the days of
    the phase begin again.

    Example: `shadowline rollout retune solar_mono --version 7 --by Ada --why "too many false alarms at dawn"`
    """
    from tasks.rollout.retuning import retune_to_version

    params, now = load_params(Layout().params), datetime.now(UTC)
    done = retune_to_version(open_records(), class_name, version, by, why, now, params)
    if done is None:
        say(f"{class_name}: is decided by version {version} already")
        return
    say(
        f"{class_name}: {done.num_pairs} pairs decided again, {done.num_flipped} of {done.num_decided} decisions "
        f"turned ({done.flipped_share:.2%}); verdict {done.verdict.outcome}: {'; '.join(done.verdict.reasons)}"
    )


@app.command("evidence")
def evidence(
    item: Annotated[ChecklistItem, typer.Argument(help="Item of the decommissioning checklist.")],
    classes: Classes,
    by: By,
    link: Annotated[str, typer.Option(help="Where the evidence lies.")],
) -> None:
    """Put an item of the decommissioning checklist on record.

    Example: `shadowline rollout evidence trained solar_mono --by Ada --link https://wiki/training`
    """
    records = open_records()
    state, now = records.rollout.state(), datetime.now(UTC)
    if item is ChecklistItem.ARCHIVED:
        raise ValueError(
            "archived: only a restored archive that scores the same proves it; the rollout does that itself"
        )
    for name in classes:
        records.approvals.record_evidence(name, state.of(name).legacy, item, by, now, link)


@app.command("history")
def history(
    class_name: Annotated[str | None, typer.Option("--class", help="Only this class.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every change of phase, share or wave, with its reason.

    Example: `shadowline rollout history --class solar_mono`
    """
    store = open_records().rollout
    events = list(changes_of_place(store.events(class_name)))
    if class_name is not None and not events:
        store.state().of(class_name)  # raises ValueError, with the classes of the rollout
    if as_json:
        typer.echo(json.dumps([_as_dict(event) for event in events]))
        return
    table = Table("when", "class", "wave", "from", "to", "share", "by", "why")
    for event in events:
        cls = event.after
        place = (_wave(cls), event.source or "", cls.phase, f"{cls.share:.0%}")
        table.add_row(f"{event.at:%Y-%m-%d %H:%M}", cls.class_name, *place, event.by, cls.reason)
    print_tables(table)


@app.command("timeline")
def timeline() -> None:
    """Draw the rollout so far into the report: phases, agreement with its interval, guards that tripped.

    Example: `shadowline rollout timeline`
    """
    from tasks.training.reporting import write_migration

    layout = Layout()
    say(write_migration.fn(open_records(), load_params(layout.params), layout))


def _order(kind: OrderKind, classes: list[str], by: str, why: str) -> None:
    from shadowline.rollout.engine import objection

    records = open_records()
    state = records.rollout.state()
    objections = {name: objection(kind, state.of(name)) for name in classes}
    lines = [f"class {name!r} {why_not}" for name, why_not in objections.items() if why_not]
    meant = [name for name, why_not in objections.items() if not why_not]
    if not meant:
        raise ValueError(f"{kind}: {'; '.join(lines)}")
    records.approvals.order(Order(kind, tuple(meant), by, why), datetime.now(UTC))
    say(*lines, f"{kind} of {', '.join(meant)} is on record for the next tick")


def _as_dict(event: Event) -> dict[str, object]:
    cls = event.after
    return {
        "revision": event.revision,
        "at": event.at.isoformat(),
        "class_name": cls.class_name,
        "from": event.source,
        "to": cls.phase,
        "share": cls.share,
        "wave": cls.wave,
        "by": event.by,
        "reason": cls.reason,
    }


def _wave(cls: ClassState) -> str:
    return {NEW_PRODUCT: "new", STAYS: "stays"}.get(cls.wave, str(cls.wave))


def _print_state(state: RolloutState) -> None:
    table = Table("wave", "class", "phase", "candidate answers", "since", "candidate", "legacy", "why")
    for cls in state.classes:
        phase = f"{cls.phase} ({cls.held_from})" if cls.held_from else cls.phase
        models = (cls.candidate[:12], cls.legacy[:12])
        table.add_row(
            _wave(cls), cls.class_name, phase, f"{cls.share:.0%}", f"{cls.since:%Y-%m-%d}", *models, cls.reason
        )
    print_tables(table)


def _deleted_classes(state: RolloutState, params: Params) -> list[str]:
    """Classes that were in the model and are not in params.yaml; a new product comes into it later."""
    return [cls.class_name for cls in state.classes if cls.wave != NEW_PRODUCT and cls.class_name not in params.classes]


def _print_alarms(state: RolloutState) -> None:
    for cls in state.classes:
        if cls.alarm:
            say(f"{cls.class_name}, last alarm: {cls.alarm}", colour="red")


def _print_step(result: RolloutStep) -> None:
    say(result.reason)
    for event in result.events:
        if event.is_move:
            say(f"{event.after.class_name}: {event.source} → {event.after.phase}: {event.after.reason}")
    for line in result.waiting:
        say(f"waits for {line}", colour="yellow")
