"""The command line: the lazy root group, and the commands that need the library alone."""

from __future__ import annotations

import gc
import sys

from shadowline.core.forked import run_forked
from shadowline.stages.pipeline import STAGE_MODULES, WITH_NETWORK

_APP = "shadowline.cli.app"
_TIMM = "shadowline.features.timm_loaded"
_NEW_OBJECTS = 100_000  # before garbage is looked for; with Python's 700, a fifth of the start-up is spent on it


def main() -> object:
    """Run a command; a stage in a fork of the server that its flow started, where there is one."""
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
    name = sys.argv[2] if sys.argv[1:2] == ["stage"] and len(sys.argv) > 2 else ""
    if name in STAGE_MODULES:
        modules = [_APP, "shadowline.cli.stage", STAGE_MODULES[name], *([_TIMM] if name in WITH_NETWORK else ())]
        return run_forked(f"{_APP}:main", modules)
    from shadowline.cli.app import main as run

    run()
    return 0
