"""What a class's calibration file says of the defects that its recipe was chosen on."""

from __future__ import annotations

import pytest

from shadowline.features.keys import KNOWN_DEFECTS
from shadowline.models.calibration_file import CalibrationFile


@pytest.mark.parametrize(
    ("kinds", "expected"), [((KNOWN_DEFECTS,), "known"), (("cutpaste", "perlin"), "injected"), (("known",), "injected")]
)
def test_known_defects_are_told_from_injected_ones_by_their_one_name(kinds: tuple[str, ...], expected: str) -> None:
    assert CalibrationFile.model_construct(injected_kinds=kinds).selected_on == expected
