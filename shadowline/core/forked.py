"""`python -m shadowline.core.forked COMMAND[,MODULE…] ARGUMENTS`: an entry point in a fork of the server that is there.

run_forked("shadowline.cli.app:main", ["shadowline.stages.bank"])    # with sys.argv; returns the exit code
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shadowline.core.fork_server import forward, load_command


def run_forked(command: str, preload: Sequence[str]) -> object:
    """What the entry point returns, or its exit code where a fork has run it; see `fork_server.forward`."""
    code = forward(command, preload)
    return load_command(command)() if code is None else code


if __name__ == "__main__":
    name, *modules = sys.argv.pop(1).split(",")
    sys.exit(run_forked(name, [name.partition(":")[0], *modules]))  # type: ignore[arg-type]
