"""`python -m tasks.validation`: the command of the stage `validate`."""

import sys

from tasks.validation.checks import main

sys.exit(main())
