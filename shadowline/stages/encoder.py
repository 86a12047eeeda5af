"""`shadowline stage encoder`: the frozen encoder's weights, from wherever params.encoder says, into models/encoder/."""

from __future__ import annotations

from shadowline.encoder import EncoderConfig, save_encoder
from shadowline.encoder_weights import fetch_state
from shadowline.params import Params
from shadowline.paths import Layout
from shadowline.progress import Progress


def run(params: Params, layout: Layout, progress: Progress) -> EncoderConfig:
    config = save_encoder(fetch_state(params.encoder, layout.root), params.encoder, layout.encoder)
    progress.message(f"encoder {config.name}: fingerprint {config.fingerprint[:12]}")
    return config
