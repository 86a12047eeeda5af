"""The command line: the lazy root group, and the commands that need the library alone."""

from __future__ import annotations

import sys

from shadowline.core.forked import run_forked
from shadowline.stages.pipeline import STAGE_MODULES

_APP = "shadowline.cli.app"


def main() -> object:
    """Run a command; a stage in a fork of the server that its flow started, where there is one."""
    if sys.argv[1:2] == ["stage"] and len(sys.argv) > 2 and sys.argv[2] in STAGE_MODULES:
        return run_forked(f"{_APP}:main", [_APP, "shadowline.cli.stage", STAGE_MODULES[sys.argv[2]]])
    from shadowline.cli.app import main as run

    run()
    return 0
