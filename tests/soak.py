"""`make soak`: a thousand kills and ten thousand engine sequences; the result goes into docs/soak.json.

Each part runs the tests of every day with a larger SHADOWLINE_TEST_EFFORT, as a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is tried, the tests, the effort: 2 seeds × 5 and 2 seeds × 6 kills on two databases, 150 sequences at effort 1.
PARTS = (
    ("1 000 kills of writers and engines", ["tests/integration/test_records_kill.py"], 24),
    ("10 000 sequences of engine ticks", ["tests/unit/rollout/test_engine.py", "-k", "TestLaws"], 67),
)


def run(what: str, tests: list[str], effort: int) -> dict[str, object]:
    started = time.monotonic()
    environment = {**os.environ, "SHADOWLINE_TEST_EFFORT": str(effort)}
    ended = subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, env=environment, check=False)
    return {"what": what, "passed": ended.returncode == 0, "minutes": round((time.monotonic() - started) / 60, 1)}


def main() -> int:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    parts = [run(*part) for part in PARTS]
    result = {"date": datetime.now(UTC).date().isoformat(), "commit": commit.stdout.strip(), "parts": parts}
    (ROOT / "docs/soak.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(part["passed"] for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
