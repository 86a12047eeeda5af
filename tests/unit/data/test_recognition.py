"""Every public layout and a factory's own are recognised, with counts that the import finds as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.replicas import BTAD, MVTEC_AD, MVTEC_LOCO, REPLICAS, VISA, Counts, real_iad, save_mask, save_picture
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


def test_a_folder_is_one_class_where_its_folders_say_what_they_hold(tmp_path: Path) -> None:
    place(tmp_path / "Bolt M8", "OK/0.png", "scratch/1.png", "scratch/2.png", "Masks/scratch/1_mask.png")
    found = the_class(tmp_path / "Bolt M8")
    assert (found.name, found.source, found.select) == ("bolt_m8", "folder", ".")
    assert Path(found.location) == tmp_path / "Bolt M8"
    assert (found.num_normal, dict(found.defects), found.num_masks) == (1, {"scratch": 2}, 1)


def test_a_picture_beside_the_folders_of_classes_does_not_make_one_class_of_them(tmp_path: Path) -> None:
    place(tmp_path, "overview.png", "bolt/good/0.png", "nut/train/good/1.png", "notes/text.png", "bolt/bad/3.png")
    (tmp_path / "notes/text.png").rename(tmp_path / "readme.txt")
    dataset = recognise(tmp_path)
    assert [found.name for found in dataset.classes] == ["bolt", "nut"]
    assert dataset.layout == "good and bad folders, train and test folders"
    assert dataset.left_out == {
        "beside the folders of the classes": (tmp_path / "overview.png", tmp_path / "readme.txt")
    }


def test_classes_of_equal_names_are_told_apart_by_the_folder_above(tmp_path: Path) -> None:
    place(
        tmp_path, "line 1/bolt/good/0.png", "line 2/bolt/good/1.png", "line 2/Bolt/good/2.png", "line 2/nut/good/3.png"
    )
    assert {found.name for found in recognise(tmp_path).classes} == {
        "line_1_bolt",
        "line_2_bolt",
        "line_2_bolt_2",
        "nut",
    }


def test_what_is_left_out_is_told_with_its_files(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "good/0.png", "good/@eaDir/0.png", "bad/1.png", "ground_truth/bad/1.png")
    place(tmp_path / "bolt", "ground_truth/bad/2_mask.png")
    assert recognise(tmp_path).left_out == {
        "a file of the system": (tmp_path / "bolt/good/@eaDir/0.png",),
        "a mask without an image": (tmp_path / "bolt/ground_truth/bad/2_mask.png",),
    }


def test_links_to_one_folder_are_followed_and_the_folder_is_named(tmp_path: Path) -> None:
    place(tmp_path / "nas/images", "0.png", "1.png", "2.png")
    place(tmp_path / "set/bolt", "bad/9.png")
    (tmp_path / "set/bolt/good").symlink_to(tmp_path / "nas/images")
    found = the_class(tmp_path / "set")
    assert (found.num_normal, found.links_to) == (3, str(tmp_path / "nas/images"))
    params = ClassParams(source=found.source, location=found.location, select=".", links_to=found.links_to)
    assert all(image.read(1 << 20) for image in list_images("bolt", params, Path()))


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("docs/manual.pdf", "docs/data.csv")])
def test_a_folder_without_images_is_refused_with_what_was_seen_and_what_is_needed(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    seen = {(): "nothing", ("notes.txt",): "notes.txt"}.get(names, "docs/")
    with pytest.raises(ValueError, match=rf"no images of a class found; seen: {seen}; lay it out as CLASS/good/ "):
        recognise(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        recognise(tmp_path / "nowhere")


def test_the_preferred_tables_of_real_iad_and_its_largest_images_are_read(tmp_path: Path) -> None:
    expected = real_iad(tmp_path, 0.001, ["audiojack"])["audiojack"]
    found = recognise(tmp_path).classes[0]
    params = ClassParams(source=found.source, location=found.location)
    images = list_images("audiojack", params, Path())
    assert all(image.name.startswith("realiad_1024/audiojack/") for image in images)
    one_view = list_images("audiojack", params.model_copy(update={"select": "realiad_jsons_sv/audiojack"}), Path())
    assert len(images) == 5 * len(one_view) == expected.normal + expected.test_normal + sum(expected.defects.values())


def test_a_table_of_real_iad_that_is_broken_is_refused_by_place(tmp_path: Path) -> None:
    place(tmp_path / "realiad_1024/bolt", "OK/0.png")
    table = tmp_path / "realiad_jsons/bolt.json"
    table.parent.mkdir()
    table.write_text('{"meta": {"prefix": "bolt/"}, "train": [{"anomaly_class": "OK"}], "test": []}')
    with pytest.raises(ValueError, match=r"bolt\.json: train\.0\.image_path: Field required; take it from Real-IAD"):
        recognise(tmp_path)
    params = ClassParams(source="realiad", location=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"class 'nut': no table nut\.json below"):
        list_images("nut", params, Path())


def test_a_mask_of_kolektor_that_cannot_be_read_leaves_its_image_anomalous(tmp_path: Path) -> None:
    REPLICAS["KolektorSDD"](tmp_path, scale=0.01)
    (tmp_path / "KolektorSDD/kos01/Part0_label.bmp").write_bytes(b"BM")
    assert the_class(tmp_path).defects == {"defect": 2}


def test_masks_beside_defects_do_not_make_a_kolektor_of_a_factorys_folder(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "0.png", "1.png", "crack/2.png", "crack/2_mask.png")
    found = the_class(tmp_path)
    assert (found.source, found.num_normal, dict(found.defects), found.num_masks) == ("folder", 2, {"crack": 1}, 1)


def test_another_json_file_beside_the_images_is_no_table(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "good/0.png")
    (tmp_path / "bolt/coco.json").write_text('{"train": [], "test": []}')
    assert the_class(tmp_path).source == "folder"
