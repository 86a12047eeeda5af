"""`shadowline stage classes`: the parameters of each class, in one file for each group that stages read.

    data/classes/names.json            the names of all classes
    data/classes/bolt/source.json      where its images come from, how they are split, and its additions: `import`
    data/classes/bolt/augment.json     its declared views: `features`, `bank`, `identity`
    data/classes/bolt/promise.json     its target false-positive rate, own or common: `calibrate`

The stages read params.yaml itself. The files are what DVC compares: it cannot watch a parameter that may be absent, and
watching a class as a whole would run all its stages again for another target rate.
"""

from __future__ import annotations

import shutil
from typing import Any

from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams, Params
from shadowline.core.progress import Progress

_OF_SOURCE = {"source", "location", "select", "test_share", "val_share", "additions"}
_WHERE_SET = {"bit_depth"}  # of the source as well; written only where it is set, as before there was such a field


def run(params: Params, layout: Layout, progress: Progress) -> None:
    shutil.rmtree(layout.classes, ignore_errors=True)
    write_json(layout.classes / "names.json", sorted(params.classes))
    for name, class_params in params.classes.items():
        folder = layout.classes / name
        write_json(folder / "source.json", _source_of(class_params))
        write_json(folder / "augment.json", list(class_params.augment))
        write_json(folder / "promise.json", {"target_fpr": params.promise(name)})


def _source_of(params: ClassParams) -> dict[str, Any]:
    optional = {name: getattr(params, name) for name in sorted(_WHERE_SET) if getattr(params, name) is not None}
    return {**params.model_dump(include=_OF_SOURCE), **optional}
