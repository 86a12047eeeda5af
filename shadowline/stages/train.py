"""`shadowline stage train`: one decoder for all classes of params.train.classes, on the feature cache."""

from __future__ import annotations

from shadowline.core.atomic_files import write_json
from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.features.cache import FeatureFile
from shadowline.models.dinomaly.model import DecoderSpec, save_decoder
from shadowline.models.dinomaly.training import History, Trainer
from shadowline.stages.training_set import class_data


def run(params: Params, layout: Layout, progress: Progress) -> History:
    data = {name: class_data(name, params, layout) for name in params.train.classes}
    spec = decoder_spec(FeatureFile(layout.features(params.train.classes[0])), params)
    trainer = Trainer(data, params.train, spec, seed=params.seed, device=pick_device())
    checkpoint = layout.scratch / "train/checkpoint.safetensors"
    result = trainer.run(progress, checkpoint)
    save_decoder(result.decoder, spec, layout.decoder_weights)
    write_json(layout.history, result.history.to_dict())
    checkpoint.unlink(missing_ok=True)
    return result.history


def decoder_spec(features: FeatureFile, params: Params) -> DecoderSpec:
    """The decoder that fits these features."""
    _, G, _, D = features.shape
    return DecoderSpec(
        width=D,
        num_groups=G,
        num_prefix=features.num_prefix,
        num_blocks=params.train.decoder_blocks,
        dropout=params.train.dropout,
    )
