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
        parts = case.get("classname", "").split(".")
        while parts and not (ROOT / "/".join(parts)).with_suffix(".py").is_file():
            parts.pop()  # names of classes
        seconds["/".join(parts) + ".py"] += float(case.get("time", 0))
    table = {file: round(value, 1) for file, value in sorted(seconds.items()) if value >= 1}
    (ROOT / "tests/durations.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
