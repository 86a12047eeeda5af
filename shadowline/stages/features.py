"""`shadowline stage features --class C`: encode what training, calibration and evaluation of a class will need."""

from __future__ import annotations

from PIL import Image

from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.images import open_within
from shadowline.data.manifest import class_bit_depth, read_manifest
from shadowline.data.perturbations import apply_view, view_seed
from shadowline.features.cache import CacheUpdate, FeatureCache, FeatureKey
from shadowline.features.encoder import load_encoder
from shadowline.features.keys import decoding_of, wanted_keys


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> CacheUpdate:
    manifest = read_manifest([layout.manifest(class_name)])
    paths = dict(zip(manifest["image_id"], manifest["path"], strict=True))
    bit_depth = class_bit_depth(manifest) or FULL_DEPTH

    def read(key: FeatureKey) -> Image.Image:
        rgb = open_within(layout.root / paths[key.image_id], params.data, bit_depth)
        return apply_view(rgb, key.view, view_seed(params.seed, key.image_id, key.view)).image

    cache = FeatureCache(load_encoder(layout.encoder, pick_device()), layout.scratch)
    keys, decoding = wanted_keys(class_name, manifest, params), decoding_of(manifest, params)
    update = cache.update(layout.features(class_name), keys, read, progress, decoding)
    progress.message(f"features {class_name}: {update.num_computed} computed, {update.num_reused} reused")
    return update
