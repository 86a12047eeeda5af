from __future__ import annotations

import pandas as pd
import pytest

from fixtures.learning import ROOT
from shadowline.core.params import load_params
from shadowline.data.manifest import class_bit_depth
from shadowline.features.keys import decoding_of


@pytest.mark.parametrize(
    ("modes", "depth", "decoding"),
    [
        (["RGB", "L", "P"], None, ""),
        (["I;12", "L"], 12, "12 bit"),
        (["RGB;10"], 10, "10 bit"),
        (["I;16B"], 16, "16 bit"),
        ([None], None, ""),
    ],
)
def test_a_feature_file_knows_the_bit_depth_and_8_bits_leave_no_trace(modes, depth, decoding):
    params, rows = load_params(ROOT / "params.yaml"), pd.DataFrame({"mode": modes})
    assert class_bit_depth(rows) == depth
    assert decoding_of(rows, params) == decoding
    upright = params.model_copy(update={"data": params.data.model_copy(update={"exif_orientation": True})})
    assert decoding_of(rows, upright).endswith("upright")
