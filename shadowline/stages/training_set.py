"""`shadowline stage training_set`: an index of what the decoder learns from, so that enrolling a class skips training.

The index holds, for each class of params.train.classes alone, a hash of its training and validation features. `train`
depends on this file and not on the features folder: a class that is only enrolled, or whose bank alone is updated,
leaves the file as it was, byte for byte, and DVC skips `train`.
"""

from __future__ import annotations

import hashlib

from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.models.dinomaly.training_data import ClassData, class_data


def run(params: Params, layout: Layout, progress: Progress) -> None:
    classes = {name: _entry(class_data(name, params, layout)) for name in sorted(params.train.classes)}
    write_json(layout.training_set, {"classes": classes})


def _entry(data: ClassData) -> dict[str, object]:
    digest = hashlib.sha256()
    for key in (*data.train, *data.val):
        digest.update(str(key).encode())
        digest.update(data.source.fetch([key]).numpy().tobytes())
    return {"num_train": len(data.train), "num_val": len(data.val), "sha256": digest.hexdigest()}
