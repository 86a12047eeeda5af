"""When, and in what order: Prefect flows that read like a table of contents."""

import gc

# A process that runs a flow imports three thousand modules; garbage is looked for as rarely as in the command line.
gc.set_threshold(100_000, 20, 20)
