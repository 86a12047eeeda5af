"""`shadowline stage train`: one decoder for all classes of params.train.classes, on the feature cache."""

from __future__ import annotations

from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.features.cache import FeatureFile
from shadowline.models.dinomaly.history import TrainingHistory
from shadowline.models.dinomaly.model import save_decoder
from shadowline.models.dinomaly.training import Trainer, decoder_spec
from shadowline.models.dinomaly.training_data import class_data


def run(params: Params, layout: Layout, progress: Progress) -> TrainingHistory:
    data = {name: class_data(name, params, layout) for name in params.train.classes}
    spec = decoder_spec(FeatureFile(layout.features(params.train.classes[0])), params)
    trainer = Trainer(data, params.train, spec, seed=params.seed, device=pick_device())
    checkpoint = layout.scratch / "train/checkpoint.safetensors"
    result = trainer.run(progress, checkpoint)
    save_decoder(result.decoder, spec, layout.decoder_weights)
    result.history.write(layout.history)
    checkpoint.unlink(missing_ok=True)
    return result.history
