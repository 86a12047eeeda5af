"""`python -m tasks.validation`: the command of the stage `validate`."""

import sys

from shadowline.core.forked import run_forked

sys.exit(run_forked("tasks.validation.checks:main", ["tasks.validation.checks"]))  # type: ignore[arg-type]
