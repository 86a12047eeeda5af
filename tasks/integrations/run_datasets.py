"""Which images a run in MLflow saw: one dataset per class, with the hash of its manifest.

log_datasets(run_id, layout, summary.num_images)
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag

from shadowline.core.hashing import file_md5
from shadowline.core.layout import Layout
from tasks.integrations.mlflow_registry import client
from tasks.integrations.retry import retried_task

_CONTEXT = InputTag("mlflow.data.context", "training")


@retried_task
def log_datasets(run_id: str, layout: Layout, num_images: Mapping[str, Mapping[str, int]]) -> None:
    """Name the manifest of every class as a dataset of the run; its digest is the md5 that dvc.lock has.

    `num_images`: class → split → images.
    """
    inputs = [DatasetInput(_dataset(layout, name, counts), [_CONTEXT]) for name, counts in num_images.items()]
    client().log_inputs(run_id, datasets=inputs)


def _dataset(layout: Layout, class_name: str, counts: Mapping[str, int]) -> Dataset:
    path = layout.manifest(class_name)
    return Dataset(
        name=class_name,
        digest=file_md5(path),
        source_type="local",
        source=json.dumps({"uri": str(path.resolve())}),
        profile=json.dumps({"num_rows": sum(counts.values()), **counts}, sort_keys=True),
    )
