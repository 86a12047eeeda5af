"""`shadowline stage code`: a hash of the code of every stage, so that DVC notices when it has changed.

    data/code/train.json            {"sha256": "…", "files": {"shadowline/models/dinomaly/model.py": "…", …}}

DVC runs this stage every time, and each other stage depends on its own file. The code is that of the installed
package, wherever it lies: a project needs no copy of it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache

from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.code import SourceTree
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.stages.pipeline import STAGE_MODULES


def run(params: Params, layout: Layout, progress: Progress) -> None:
    write_code_hashes(layout)


def write_code_hashes(layout: Layout) -> None:
    """Write a file for each stage; a file whose content has not changed is left alone, with its time of change."""
    tree, sha256_of = SourceTree(), cache(file_sha256)
    for stage, module in STAGE_MODULES.items():
        if stage == "code":
            continue
        files = {name: sha256_of(path) for name, path in tree.files(module).items()}
        total = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        path, content = layout.code / f"{stage}.json", {"sha256": total, "files": files}
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)
