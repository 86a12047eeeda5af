"""Writes tests/durations.json from a run's junit file: python tests/durations.py out/junit.xml"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def main(junit: Path) -> None:
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(junit).iter("testcase"):
        seconds[_scope(case.get("classname", "").split("."))] += float(case.get("time", 0))
    table = {file: round(value, 1) for file, value in sorted(seconds.items()) if value >= 1}
    (ROOT / "tests/durations.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _scope(parts: list[str]) -> str:
    """`tests.unit.test_x.TestY` as pytest names it: tests/unit/test_x.py::TestY."""
    for number in range(len(parts), 0, -1):
        file = "/".join(parts[:number]) + ".py"
        if (ROOT / file).is_file():
            return "::".join([file, *parts[number:]])
    raise ValueError(f"{'.'.join(parts)}: no test file of this project; give the junit file of `make test`")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
