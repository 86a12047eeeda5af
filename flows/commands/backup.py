"""`shadowline backup` and `shadowline restore`: back up a project's data, and restore a project from a backup."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import say
from shadowline.core.progress import Progress, default_progress
from shadowline.core.project import anywhere

if TYPE_CHECKING:
    from tasks.backup.restore import RestoreDone
    from tasks.backup.snapshot import BackupDone

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def backup(
    target: Annotated[str, typer.Argument(help="A folder, or s3://BUCKET/PREFIX; each backup gets a name below it.")],
    with_downloads: Annotated[bool, typer.Option(help="data/downloads as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep databases, registry, models, images, audit keys and git, while the gateway answers and ticks run.

    Exit code 1 where what was kept does not agree with itself: a model on record whose files are nowhere.

    Example: `shadowline backup /mnt/backup`
    """
    from tasks.backup.snapshot import back_up

    done = back_up(target, Path(), _progress(as_json), with_downloads=with_downloads)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        _print_backup(done)
    raise typer.Exit(1 if done.problems else 0)


@anywhere
def restore(
    location: Annotated[str, typer.Argument(metavar="BACKUP", help="One backup, as `shadowline backup` named it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An empty or missing folder.")],
    as_json: JsonOption = False,
) -> None:
    """Bring a project back: verify every file, put it in place, check the audit chain, inspect an image of each class.

    Dumps of PostgreSQL go into the empty databases that SHADOWLINE_DATABASE_URL and SHADOWLINE_TRACKING_URI name.
    Exit code 1 where the backup knew of models whose files it does not hold, or a class has no image to be tried on.

    Example: `shadowline restore /mnt/backup/20260105T060000Z /srv/inspection`
    """
    from tasks.backup.restore import restore as restore_backup

    done = restore_backup(location, folder, _progress(as_json))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        _print_restore(done)
    raise typer.Exit(1 if done.problems else 0)


def _progress(as_json: bool) -> Progress:
    return Progress() if as_json else default_progress()


def _print_backup(done: BackupDone) -> None:
    size = f"{done.num_files} files, {_mb(done.num_bytes)}, of which {_mb(done.num_new_bytes)} are new"
    say(f"{done.location}: {size}, {done.seconds:.0f} s; manifest {done.manifest_sha256[:12]}")
    if done.has_private_keys:
        say("private keys of the audit chain are inside: whoever reads it can sign", colour="yellow", err=True)
    _print_lines(done.left_out, done.problems)


def _print_restore(done: RestoreDone) -> None:
    say(f"{done.folder}: {done.num_files} files, {_mb(done.num_bytes)}, all verified; {done.seconds / 60:.1f} min")
    say(f"audit chain: {done.num_entries} entries, sound")
    say(f"registered: {len(done.registered)} versions; tried {done.inspector or 'none'}")
    for check in done.inspected:
        say(f"  {check.class_name}: {Path(check.image).name[:16]} {check.decision}, score {check.score:.2f}")
    stale = ", ".join(done.stale)
    say(f"dvc: stale are {stale}" if stale else "dvc: everything is up to date")
    for name, value in done.environment.items():
        say(f"set {name}={value}")
    _print_lines(done.left_out, done.problems)


def _print_lines(left_out: tuple[str, ...], problems: tuple[str, ...]) -> None:
    for line in left_out:
        say(f"left out: {line}")
    for line in problems:
        say(f"problem: {line}", colour="red", err=True)


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f} MB"
