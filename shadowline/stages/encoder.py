"""`shadowline stage encoder`: write the frozen encoder's weights, which params.encoder names, to models/encoder/."""

from __future__ import annotations

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.features.encoder import EncoderConfig, save_encoder
from shadowline.features.encoder_weights import fetch_state


def run(params: Params, layout: Layout, progress: Progress) -> EncoderConfig:
    config = save_encoder(fetch_state(params.encoder, layout.root), params.encoder, layout.encoder)
    progress.message(f"encoder {config.name}: fingerprint {config.fingerprint[:12]}")
    return config
