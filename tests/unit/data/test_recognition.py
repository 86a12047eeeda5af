"""Every public layout and a factory's own are recognised, with counts that the import finds as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.replicas import BTAD, MVTEC_AD, MVTEC_LOCO, REPLICAS, VISA, Counts, save_mask, save_picture
from shadowline.core.params import ClassParams
from shadowline.data.sources import list_images
from shadowline.data.sources.recognition import FoundClass, recognise


def counts_of(found: FoundClass) -> Counts:
    return Counts(found.num_normal, found.num_test_normal, found.defects, found.num_masks, found.num_unknown)


def place(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        save_mask(root / name) if "mask" in name else save_picture(root / name, "bolt", number)


def the_class(folder: Path) -> FoundClass:
    (found,) = recognise(folder).classes
    return found


@pytest.mark.parametrize("layout", REPLICAS)
def test_each_layout_is_recognised_and_can_be_imported_as_it_is_said(tmp_path: Path, layout: str) -> None:
    expected = REPLICAS[layout](tmp_path, scale=0.01)
    dataset = recognise(tmp_path)
    assert dataset.layout == layout
    assert {found.name: counts_of(found) for found in dataset.classes} == expected
    for found in dataset.classes[:2]:
        params = ClassParams(source=found.source, location=found.location, select=found.select or "")
        images = list_images(found.name, params, Path())
        assert len(images) == found.num_normal + found.num_test_normal + sum(found.defects.values()) + found.num_unknown
        assert all(image.read(1 << 20) for image in images)
        assert all(read(1 << 20) for image in images for read in image.read_masks)


def test_the_replicas_have_the_published_numbers() -> None:
    assert sum(train for train, _, _ in MVTEC_AD.values()) == 3629
    assert sum(good + sum(defects.values()) for _, good, defects in MVTEC_AD.values()) == 1725
    assert [sum(column) for column in zip(*MVTEC_LOCO.values(), strict=True)][:2] == [1772, 304]
    assert sum(sum(counts[2:]) for counts in MVTEC_LOCO.values()) == 1568
    assert sum(sum(counts[:3]) for counts in BTAD.values()) == 2540
    assert sum(VISA.values()) == 9621
