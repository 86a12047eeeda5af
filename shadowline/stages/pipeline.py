"""The stages of dvc.yaml in their order: the module that computes each, and which run once for every class."""

from __future__ import annotations

STAGE_MODULES = {
    "code": "shadowline.stages.code",
    "classes": "shadowline.stages.classes",
    "import": "shadowline.stages.import_class",
    "validate": "tasks.validation.checks",
    "encoder": "shadowline.stages.encoder",
    "features": "shadowline.stages.features",
    "training_set": "shadowline.stages.training_set",
    "train": "shadowline.stages.train",
    "bank": "shadowline.stages.bank",
    "identity": "shadowline.stages.identity",
    "calibrate": "shadowline.stages.calibrate",
    "legacy": "shadowline.stages.legacy",
    "evaluate": "shadowline.stages.evaluate",
    "package": "shadowline.stages.package",
    "cost": "shadowline.stages.cost",
    "summary": "shadowline.stages.summary",
}
PER_CLASS = frozenset({"import", "features", "bank", "identity", "calibrate", "legacy", "evaluate"})
WITH_NETWORK = frozenset({"encoder", "features", "legacy", "package", "cost"})  # stages that build one with timm
