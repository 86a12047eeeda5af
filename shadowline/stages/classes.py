"""`shadowline stage classes`: the parameters of each class, in one file for each group that stages read.

    data/classes/names.json            the names of all classes
    data/classes/bolt/source.json      where its images come from, how they are split, and its additions: `import`
    data/classes/bolt/augment.json     its declared views: `features`, `bank`, `identity`
    data/classes/bolt/promise.json     its target false-positive rate, own or common: `calibrate`

What earlier runs made of a class that is not in params.yaml any more is removed, so that no stage reads it.

The stages read params.yaml itself. The files are what DVC compares: it cannot watch a parameter that may be absent, and
watching a class as a whole would run all its stages again for another target rate.
"""

from __future__ import annotations

import shutil

from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams, Params
from shadowline.core.progress import Progress

_OF_SOURCE = {"source", "location", "select", "test_share", "val_share", "additions"}
_WHERE_SET = {"bit_depth", "links_to", "normal_folders"}  # of the source too; only where set: other classes stay fresh


def run(params: Params, layout: Layout, progress: Progress) -> None:
    for name in sorted(layout.imported_classes() - params.classes.keys()):
        layout.forget(name)
        progress.message(
            f"class '{name}' is not in params.yaml any more: its files are removed; `shadowline class remove {name}` "
            "takes it out of rollout and inbox as well"
        )
    shutil.rmtree(layout.classes, ignore_errors=True)
    write_json(layout.classes / "names.json", sorted(params.classes))
    for name, class_params in params.classes.items():
        folder = layout.classes / name
        write_json(folder / "source.json", _source(class_params))
        write_json(folder / "augment.json", list(class_params.augment))
        write_json(folder / "promise.json", {"target_fpr": params.promise(name)})


def _source(params: ClassParams) -> dict[str, object]:
    set_ones = params.model_dump(include=_WHERE_SET, exclude_defaults=True)
    return params.model_dump(include=_OF_SOURCE) | set_ones
