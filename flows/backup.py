"""Back up everything, on a schedule of the plant's own.

shadowline backup /mnt/backup                      # once, here
prefect deployment run 'backup/nightly' --param target=/mnt/backup
prefect deployment schedule create backup/nightly --cron '30 3 * * *'
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.backup.snapshot import BackupDone, make_backup


@flow(name="backup")
def backup(target: str, root: Path = Path(), with_downloads: bool = False) -> BackupDone:
    """One more backup below a folder or an s3:// prefix; red where its parts do not agree with each other."""
    done = make_backup(target, root, with_downloads)
    if done.problems:
        raise ValueError(f"{done.location}: {'; '.join(done.problems)}")
    return done
