"""Small replicas of every layout that images come in, and of what is wrong with them."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from fixtures.learning import ROOT
from shadowline.core.params import ClassParams, load_params
from shadowline.data.images import ImageLimits, Refusal, RefusedImage, open_within
from shadowline.data.labels import Label, Split
from shadowline.data.sources import SOURCES, SourceImage, list_images, list_source

LIMIT = 1 << 20


def png(seed: int = 0) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def place(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def listed(source: str, location: Path | str, select: str = "", root: Path = Path()) -> dict[str, SourceImage]:
    images = list_images("bolt", ClassParams(source=source, location=str(location), select=select), root)
    by_name = {image.name: image for image in images}
    assert len(by_name) == len(images)
    return by_name


def facts(images: dict[str, SourceImage]) -> dict[str, tuple[str, str, str | None]]:
    return {name: (image.label, image.defect_type, image.split_hint) for name, image in images.items()}


def wheel(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_mvtec_layout(tmp_path: Path) -> None:
    place(
        tmp_path / "bolt",
        "train/good/000.png",
        "test/good/000.png",
        "test/bent/000.png",
        "test/bent/001.png",
        "ground_truth/bent/000_mask.png",
    )
    images = listed("mvtec", tmp_path)
    assert facts(images) == {
        "bolt/train/good/000.png": (Label.NORMAL, "", Split.TRAIN),
        "bolt/test/bent/000.png": (Label.ANOMALOUS, "bent", Split.TEST),
        "bolt/test/bent/001.png": (Label.ANOMALOUS, "bent", Split.TEST),
        "bolt/test/good/000.png": (Label.NORMAL, "", Split.TEST),
    }
    assert [len(image.read_masks) for image in images.values()] == [0, 1, 0, 0]
    assert images["bolt/train/good/000.png"].read(LIMIT) == png(0)
    assert images["bolt/test/bent/000.png"].read_masks[0](LIMIT) == png(4)


def test_a_relative_location_counts_from_the_project_and_select_names_the_folder(tmp_path: Path) -> None:
    place(tmp_path / "shared/M8_bolt", "train/good/000.png")
    assert list(listed("mvtec", "shared", select="M8_bolt", root=tmp_path)) == ["M8_bolt/train/good/000.png"]


def test_loco_layout_with_several_masks_an_image(tmp_path: Path) -> None:
    place(
        tmp_path / "bolt",
        "train/good/000.png",
        "validation/good/000.png",
        "test/good/000.png",
        "test/logical_anomalies/000.png",
        "test/structural_anomalies/000.png",
        "ground_truth/logical_anomalies/000/000.png",
        "ground_truth/logical_anomalies/000/001.png",
        "ground_truth/structural_anomalies/000/000.png",
    )
    images = listed("loco", tmp_path)
    assert facts(images) == {
        "bolt/train/good/000.png": (Label.NORMAL, "", Split.TRAIN),
        "bolt/validation/good/000.png": (Label.NORMAL, "", Split.VAL),
        "bolt/test/good/000.png": (Label.NORMAL, "", Split.TEST),
        "bolt/test/logical_anomalies/000.png": (Label.ANOMALOUS, "logical_anomalies", Split.TEST),
        "bolt/test/structural_anomalies/000.png": (Label.ANOMALOUS, "structural_anomalies", Split.TEST),
    }
    masks = images["bolt/test/logical_anomalies/000.png"].read_masks
    assert [read(LIMIT) for read in masks] == [png(5), png(6)]


def visa(root: Path) -> Path:
    place(
        root,
        "bolt/Data/Images/Normal/0000.JPG",
        "bolt/Data/Images/Normal/0001.JPG",
        "bolt/Data/Images/Anomaly/000.JPG",
        "bolt/Data/Masks/Anomaly/000.png",
    )
    (root / "bolt/image_anno.csv").write_text(
        "image,label,mask\n"
        "bolt/Data/Images/Normal/0000.JPG,normal,\n"
        "bolt/Data/Images/Normal/0001.JPG,normal,\n"
        'bolt/Data/Images/Anomaly/000.JPG,"bent,scratch",bolt/Data/Masks/Anomaly/000.png\n'
    )
    return root


def test_visa_layout_without_its_split_table_has_no_hints(tmp_path: Path) -> None:
    images = listed("visa", visa(tmp_path))
    assert facts(images) == {
        "bolt/Data/Images/Normal/0000.JPG": (Label.NORMAL, "", None),
        "bolt/Data/Images/Normal/0001.JPG": (Label.NORMAL, "", None),
        "bolt/Data/Images/Anomaly/000.JPG": (Label.ANOMALOUS, "bent,scratch", None),
    }
    assert images["bolt/Data/Images/Anomaly/000.JPG"].read_masks[0](LIMIT) == png(3)


def test_visa_split_table_decides_the_split_and_the_annotations_name_the_defects(tmp_path: Path) -> None:
    (visa(tmp_path) / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "bolt,train,normal,bolt/Data/Images/Normal/0000.JPG,\n"
        "bolt,test,normal,bolt/Data/Images/Normal/0001.JPG,\n"
        "bolt,test,anomaly,bolt/Data/Images/Anomaly/000.JPG,bolt/Data/Masks/Anomaly/000.png\n"
        "nut,test,normal,nut/Data/Images/Normal/0000.JPG,\n"
    )
    assert facts(listed("visa", tmp_path)) == {
        "bolt/Data/Images/Normal/0000.JPG": (Label.NORMAL, "", Split.TRAIN),
        "bolt/Data/Images/Normal/0001.JPG": (Label.NORMAL, "", Split.TEST),
        "bolt/Data/Images/Anomaly/000.JPG": (Label.ANOMALOUS, "bent,scratch", Split.TEST),
    }
    (tmp_path / "bolt/image_anno.csv").unlink()
    assert listed("visa", tmp_path)["bolt/Data/Images/Anomaly/000.JPG"].defect_type == "anomaly"


def test_visa_tables_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    table = visa(tmp_path) / "bolt/image_anno.csv"
    table.write_text("picture,label,mask\n")
    with pytest.raises(ValueError, match=r"no columns \['image'\]"):
        listed("visa", tmp_path)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither .*1cls.csv nor .*image_anno.csv"):
        listed("visa", tmp_path)


def test_folder_layout_with_its_own_test_images(tmp_path: Path) -> None:
    place(
        tmp_path / "bolt",
        "train/good/monday/a.png",
        "train/bent/b.png",
        "test/good/c.png",
        "test/dirty/d.png",
        "test/dirty/e.png",
        "ground_truth/dirty/d.png",
        "ground_truth/dirty/e_mask.png",
        "ground_truth/bent/b.png",
    )
    images = listed("folder", tmp_path)
    assert facts(images) == {
        "bolt/train/good/monday/a.png": (Label.NORMAL, "", Split.TRAIN),
        "bolt/train/bent/b.png": (Label.ANOMALOUS, "bent", Split.TRAIN),
        "bolt/test/good/c.png": (Label.NORMAL, "", Split.TEST),
        "bolt/test/dirty/d.png": (Label.ANOMALOUS, "dirty", Split.TEST),
        "bolt/test/dirty/e.png": (Label.ANOMALOUS, "dirty", Split.TEST),
    }
    masks = {name: [read(LIMIT) for read in image.read_masks] for name, image in images.items()}
    assert masks["bolt/test/dirty/d.png"] == [png(5)]
    assert masks["bolt/test/dirty/e.png"] == [png(6)]
    assert masks["bolt/train/bent/b.png"] == [png(7)]


def test_folder_with_only_training_images_leaves_the_split_open(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "train/good/a.png", "test/dirty/b.png")
    assert facts(listed("folder", tmp_path)) == {
        "bolt/train/good/a.png": (Label.NORMAL, "", None),
        "bolt/test/dirty/b.png": (Label.ANOMALOUS, "dirty", Split.TEST),
    }


def test_what_is_no_image_is_listed_to_be_refused_by_name_but_leftovers_are_not(tmp_path: Path) -> None:
    place(
        tmp_path / "bolt/train/good",
        "a.png",
        "b.BMP",
        "notes.txt",
        "Thumbs.db",
        ".DS_Store",
        ".cache/c.png",
    )
    assert [Path(name).name for name in listed("folder", tmp_path)] == ["a.png", "b.BMP", "notes.txt"]


@pytest.mark.parametrize(
    ("normal", "defect"),
    [
        *[("Good", "NG"), ("ok", "ko"), ("OK", "nOK"), ("normal", "Abnormal"), ("i.O.", "n.i.O."), ("Gut", "Fehler")],
        *[("01_good images", "02_bad images"), ("정상", "불량"), (unicodedata.normalize("NFD", "양품"), "결함")],
    ],
)
@pytest.mark.parametrize("split", ["train/", "Training/", ""])
def test_words_for_normal_images_are_understood_in_any_spelling(
    tmp_path: Path, normal: str, defect: str, split: str
) -> None:
    place(tmp_path / "bolt", f"{split}{normal}/a.png", f"{split}{defect}/b.png", f"{split}scratch/c.png")
    images = listed("folder", tmp_path)
    assert {(image.label, image.defect_type) for image in images.values()} == {
        (Label.ANOMALOUS, defect),
        (Label.ANOMALOUS, "scratch"),
        (Label.NORMAL, ""),
    }


def test_more_words_for_normal_images_can_be_named(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "Freigabe/a.png", "Kratzer/b.png")
    with pytest.raises(
        ValueError, match=r"0 normal images .*\(Freigabe, Kratzer\), name those .* classes\.bolt\.normal"
    ):
        listed("folder", tmp_path)
    params = ClassParams(source="folder", location=str(tmp_path), normal_folders=("freigabe",))
    assert [image.label for image in list_images("bolt", params, Path())] == [Label.NORMAL, Label.ANOMALOUS]


@pytest.mark.parametrize("name", ["goood", "Norml", "good_", "goods"])
def test_a_misspelt_folder_of_normal_images_is_no_kind_of_defect(tmp_path: Path, name: str) -> None:
    place(tmp_path / "bolt", "train/good/a.png", f"test/{name}/b.png", "test/wood/c.png")
    if name == "good_":
        assert listed("folder", tmp_path)["bolt/test/good_/b.png"].label is Label.NORMAL
        return
    with pytest.raises(ValueError, match=rf"the folder '{name}' with .*did you mean (good|normal)\?"):
        listed("folder", tmp_path)


def test_defects_in_folders_of_an_unnamed_defect_are_told_apart_by_the_next_folder(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "ok/left/a.png", "NG/Kratzer/b.png", "NG/left/c.png", "NG/cam1/d.png", "NG/e.png")
    images = listed("folder", tmp_path)
    kinds = {image.defect_type for image in images.values()}
    assert kinds == {"", "Kratzer", "NG"}


def test_a_flat_folder_holds_normal_images(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "a.png", "b.png", "crack/c.png")
    assert facts(listed("folder", tmp_path)) == {
        "bolt/a.png": (Label.NORMAL, "", None),
        "bolt/b.png": (Label.NORMAL, "", None),
        "bolt/crack/c.png": (Label.ANOMALOUS, "crack", None),
    }


def test_images_without_a_label_play_production(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "train/a.png", "test/b.png", "test/good/c.png", "test_private/bad/d.png")
    assert facts(listed("folder", tmp_path)) == {
        "bolt/train/a.png": (Label.NORMAL, "", Split.TRAIN),
        "bolt/test/b.png": (Label.UNKNOWN, "", Split.STREAM),
        "bolt/test/good/c.png": (Label.NORMAL, "", Split.TEST),
        "bolt/test_private/bad/d.png": (Label.UNKNOWN, "", Split.STREAM),
    }


@pytest.mark.parametrize("source", ["mvtec", "loco", "folder"])
def test_without_normals_to_test_with_some_of_those_to_train_are_taken(tmp_path: Path, source: str) -> None:
    place(tmp_path / "bolt", "train/good/a.png", "validation/good/b.png", "test/bent/c.png")
    hints = {name: hint for name, (_, _, hint) in facts(listed(source, tmp_path)).items()}
    assert hints == {
        "bolt/train/good/a.png": None,
        "bolt/validation/good/b.png": Split.VAL,
        "bolt/test/bent/c.png": Split.TEST,
    }


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        "ground_truth/bent/000.png",
        "ground_truth/bent/000_mask.png",
        "ground_truth/bent/000_mask.bmp",
        "ground_truth/bent/000_mask.PNG",
        "Ground Truth/Bent/000_GT.tif",
        "GT/bent/000-mask.png",
        "masks/bent/000_label.png",
        "masks/000_mask.png",
        "test/masks/bent/000.png",
        "test/bent/masks/000.png",
        "labels/bent/000.png",
        "ground_truth/test/bent/000_mask.png",
        "test/bent/000_mask.png",
        "마스크/bent/000.png",
    ],
)
def test_a_mask_by_any_usual_name_is_found(tmp_path: Path, mask: str) -> None:
    place(tmp_path / "bolt", "train/good/000.png", "test/good/000.png", "test/bent/000.png", "test/dirty/001.png", mask)
    images = listed("folder", tmp_path)
    assert [read(LIMIT) for read in images["bolt/test/bent/000.png"].read_masks] == [png(4)]
    assert len(images) == 4 and not images["bolt/test/good/000.png"].read_masks


def test_an_image_and_a_mask_of_one_name_in_one_folder_are_not_two_defects(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "good/0.jpg", "good/0.png", "bad/0.jpg", "bad/0.png")
    with pytest.raises(
        ValueError, match=r"bad/0\.jpg and 0\.png have one name; if one is the mask, call it 0_mask\.png"
    ):
        listed("folder", tmp_path)


def test_masks_of_which_none_fits_are_refused_with_both_names(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "train/good/000.png", "test/bent/000.png", "ground_truth/bent/mask_of_a.png")
    with pytest.raises(ValueError, match=r"none of 1 masks in .*bent fits .* mask_of_a\.png, images such as 000\.png"):
        listed("mvtec", tmp_path)


def test_masks_of_nested_folders_belong_to_the_image_in_the_same_folders(tmp_path: Path) -> None:
    cameras = ("cam1", "cam2")
    place(
        tmp_path / "bolt",
        "train/good/0.png",
        *(f"test/bent/{camera}/0.png" for camera in cameras),
        *(f"ground_truth/bent/{camera}/0_mask.png" for camera in cameras),
    )
    images = listed("mvtec", tmp_path)
    assert [read(LIMIT) for read in images["bolt/test/bent/cam1/0.png"].read_masks] == [png(3)]
    assert [read(LIMIT) for read in images["bolt/test/bent/cam2/0.png"].read_masks] == [png(4)]


def test_a_mask_that_fits_images_of_two_cameras_is_refused(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "train/good/0.png", "test/bent/cam1/0.png", "test/bent/cam2/0.png")
    place(tmp_path / "bolt", "ground_truth/bent/0_mask.png")
    with pytest.raises(ValueError, match=r"0_mask\.png fits .*cam1/0\.png and .*cam2/0\.png; put it into the folders"):
        listed("mvtec", tmp_path)
    (tmp_path / "bolt/test/bent/cam2/0.png").unlink()
    assert listed("mvtec", tmp_path)["bolt/test/bent/cam1/0.png"].read_masks


def test_masks_without_an_image_and_those_of_normals_are_left_out_and_counted(tmp_path: Path) -> None:
    place(
        tmp_path / "bolt",
        *("train/good/000.png", "test/bent/000.png", "ground_truth/bent/000_mask.png"),
        *("ground_truth/bent/001_mask.png", "ground_truth/good/000_mask.png", "ground_truth/bent/notes.txt"),
    )
    assert left_out("mvtec", tmp_path) == {
        "a mask without an image": ["001_mask.png"],
        "a mask of an image that is not known to have a defect": ["000_mask.png"],
        "beside the folders of images": ["notes.txt"],
    }


# --- what is no image -----------------------------------------------------------------------------------------------


def test_folders_of_storage_devices_and_systems_are_skipped_and_counted(tmp_path: Path) -> None:
    system = (
        "@eaDir",
        "__MACOSX",
        "lost+found",
        "$RECYCLE.BIN",
        "#recycle",
        ".Trash-1000",
        "System Volume Information",
    )
    place(
        tmp_path / "bolt",
        *("train/good/0.png", "train/good/Thumbs.db", "train/good/._0.png", "train/good/~$notes.docx"),
        *(f"{folder}/train/good/0.png" for folder in system),
        *(f"test/{folder}/0.png" for folder in system),
    )
    assert list(listed("folder", tmp_path)) == ["bolt/train/good/0.png"]
    assert len(left_out("folder", tmp_path)["a file of the system"]) == 3 + 2 * len(system)


def left_out(source: str, location: Path) -> dict[str, list[str]]:
    listing = list_source("bolt", ClassParams(source=source, location=str(location)), Path())
    return {reason: [path.name for path in paths] for reason, paths in listing.left_out.items()}


LABELS = (
    b"images/cell0001.png  1.0                 mono\n"
    b"images/cell0002.png  0.0                 mono\n"
    b"images/cell0003.png  0.3333333333333333  mono\n"
    b"images/cell0004.png  0.0                 poly\n"
    b"images/cell0005.png  0.6666666666666666  poly\n"
)


def elpv(path: Path, labels: bytes = LABELS) -> Path:
    cells = {f"elpv_dataset/data/images/cell000{n}.png": png(n) for n in range(1, 5)}
    return wheel(path / "elpv.whl", **{"elpv_dataset/data/labels.csv": labels}, **cells)


def test_elpv_wheel(tmp_path: Path) -> None:
    mono = listed("elpv", elpv(tmp_path), select="mono")
    assert facts(mono) == {
        "images/cell0001.png": (Label.ANOMALOUS, "defective", None),
        "images/cell0002.png": (Label.NORMAL, "", None),
        "images/cell0003.png": (Label.UNKNOWN, "", Split.STREAM),
    }
    assert mono["images/cell0002.png"].read(LIMIT) == png(2)
    poly = listed("elpv", tmp_path / "elpv.whl", select="poly")
    assert [image.label for image in poly.values()] == [Label.NORMAL, Label.UNKNOWN]
    with pytest.raises(RefusedImage, match=r"cell0005\.png") as caught:
        poly["images/cell0005.png"].read(LIMIT)
    assert caught.value.refusal == Refusal.UNREADABLE


def test_a_damaged_member_of_a_wheel_is_unreadable_by_name(tmp_path: Path) -> None:
    path = elpv(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(png(2), png(2)[:-20] + b"x" * 20))
    image = listed("elpv", path, select="mono")["images/cell0002.png"]
    with pytest.raises(RefusedImage, match=r"cell0002\.png") as caught:
        image.read(LIMIT)
    assert caught.value.refusal == Refusal.UNREADABLE


def test_a_broken_line_of_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels.csv:2: expected .* got 'images/cell0002.png mono'"):
        listed("elpv", elpv(tmp_path, LABELS[:46] + b"images/cell0002.png mono\n"), select="mono")


def test_textile_wheel(tmp_path: Path) -> None:
    folder = "conformal_clip_data/data/textile_images/simulated"
    kinds = ("local", "nominal", "global")
    path = wheel(tmp_path / "t.whl", **{f"{folder}/{kind}/textile_0001.jpg": kind.encode() for kind in kinds})
    images = listed("textile", path, select="simulated")
    assert facts(images) == {
        "simulated/nominal/textile_0001.jpg": (Label.NORMAL, "", None),
        "simulated/local/textile_0001.jpg": (Label.ANOMALOUS, "local", None),
        "simulated/global/textile_0001.jpg": (Label.ANOMALOUS, "global", None),
    }
    assert images["simulated/local/textile_0001.jpg"].read(LIMIT) == b"local"


@pytest.mark.parametrize(
    ("source", "select", "hint"),
    [
        ("elpv", "monno", r"did you mean mono\?"),
        ("elpv", "", r"not one of \['mono', 'poly'\]$"),
        ("textile", "simulation", r"did you mean simulated\?"),
    ],
)
def test_an_unknown_part_of_a_wheel_names_the_nearest(tmp_path: Path, source: str, select: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        listed(source, elpv(tmp_path), select=select)


def test_a_file_that_is_no_wheel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "half.whl").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"half\.whl: no wheel .* run `shadowline data fetch`"):
        listed("elpv", tmp_path / "half.whl", select="mono")


def test_a_read_stops_at_its_limit(tmp_path: Path) -> None:
    place(tmp_path / "bolt", "train/good/a.png")
    zeros = {"elpv_dataset/data/labels.csv": LABELS, "elpv_dataset/data/images/cell0002.png": bytes(10_000_000)}
    from_wheel = listed("elpv", wheel(tmp_path / "bomb.whl", **zeros), select="mono")["images/cell0002.png"]
    assert len(listed("folder", tmp_path)["bolt/train/good/a.png"].read(10)) == 10
    assert len(from_wheel.read(10)) == 10


def test_a_link_that_leaves_the_location_is_refused_by_name(tmp_path: Path) -> None:
    place(tmp_path, "secret/key.png", "data/bolt/train/good/a.png")
    (tmp_path / "data/bolt/train/good/b.png").symlink_to(tmp_path / "secret/key.png")
    (tmp_path / "data/bolt/train/good/c.png").symlink_to(tmp_path / "data/bolt/train/good/a.png")
    (tmp_path / "data/bolt/train/good/d").symlink_to(tmp_path / "secret")
    images = listed("folder", tmp_path / "data")
    assert images["bolt/train/good/c.png"].read(LIMIT) == png(1)
    for name in ("bolt/train/good/b.png", "bolt/train/good/d"):
        with pytest.raises(RefusedImage, match=name) as caught:
            images[name].read(LIMIT)
        assert caught.value.refusal == Refusal.OUTSIDE_SOURCE


def test_links_may_lead_to_a_folder_that_is_declared(tmp_path: Path) -> None:
    place(tmp_path, "nas/good/a.png", "nas/good/b.png", "other/c.png", "set/bolt/test/good/d.png")
    (tmp_path / "set/bolt/train").mkdir()
    (tmp_path / "set/bolt/train/good").symlink_to(tmp_path / "nas/good")
    (tmp_path / "set/bolt/test/good/a.png").symlink_to(tmp_path / "nas/good/a.png")
    (tmp_path / "set/bolt/test/good/c.png").symlink_to(tmp_path / "other/c.png")
    (tmp_path / "set/bolt/test/good/circle").symlink_to(tmp_path / "set/bolt")
    params = ClassParams(source="folder", location="set", links_to="nas")
    images = {image.name: image for image in list_images("bolt", params, tmp_path)}
    for name in ("train/good/a.png", "train/good/b.png", "test/good/a.png", "test/good/d.png"):
        assert images[f"bolt/{name}"].read(LIMIT)
    for name in ("test/good/c.png", "test/good/circle"):
        with pytest.raises(RefusedImage):
            images[f"bolt/{name}"].read(LIMIT)


@pytest.mark.parametrize("location", ["data/images", "data/images/bolt", "data", ".", "models", ".shadowline/copies"])
def test_a_source_that_overlaps_what_stages_clear_is_refused(tmp_path: Path, location: str) -> None:
    place(
        tmp_path,
        "data/images/bolt/a.png",
        "models/bolt/a.png",
        ".shadowline/copies/bolt/a.png",
        "data/inbox/bolt/a.png",
    )
    params = ClassParams(source="folder", location=location)
    with pytest.raises(ValueError, match=r"overlaps .*, which stages clear; .* correct classes\.bolt\.location"):
        list_images("bolt", params, tmp_path)
    assert list_images("bolt", params.model_copy(update={"location": "data/inbox"}), tmp_path)


@pytest.mark.parametrize("path", ["../secret.png", "bolt/../../secret.png", "{root}/secret.png"])
def test_a_table_that_points_out_of_the_location_is_refused_by_name(tmp_path: Path, path: str) -> None:
    place(tmp_path, "secret.png", "visa/bolt/Data/Images/Normal/0.png")
    path = path.format(root=tmp_path)
    (tmp_path / "visa/bolt/image_anno.csv").write_text(f"image,label,mask\n{path},anomaly,{path}\n")
    image = listed("visa", tmp_path / "visa")[path]
    for read in (image.read, *image.read_masks):
        with pytest.raises(RefusedImage, match=r"secret\.png") as caught:
            read(LIMIT)
        assert caught.value.refusal == Refusal.OUTSIDE_SOURCE


@pytest.mark.parametrize("path", ["../../../secret.png", "{root}/secret.png"])
def test_a_table_of_real_iad_that_points_out_of_the_location_is_refused_by_name(tmp_path: Path, path: str) -> None:
    place(tmp_path, "secret.png", "set/realiad_1024/bolt/OK/0.jpg")
    sample = {"anomaly_class": "AK", "image_path": path.format(root=tmp_path), "mask_path": path.format(root=tmp_path)}
    (tmp_path / "set/bolt.json").write_text(json.dumps({"train": [], "test": [sample]}))
    (image,) = listed("realiad", tmp_path / "set").values()
    for read in (image.read, *image.read_masks):
        with pytest.raises(RefusedImage, match=r"secret\.png") as caught:
            read(LIMIT)
        assert caught.value.refusal == Refusal.OUTSIDE_SOURCE


@pytest.mark.parametrize("name", ["../../../secret.png", "/etc/hostname"])
def test_a_label_that_points_out_of_the_wheel_is_refused_by_name(tmp_path: Path, name: str) -> None:
    member = str(PurePosixPath("elpv_dataset/data") / name)
    labels = {"elpv_dataset/data/labels.csv": f"{name} 0.0 mono\n".encode(), member: png()}
    image = listed("elpv", wheel(tmp_path / "evil.whl", **labels), select="mono")[name]
    with pytest.raises(RefusedImage, match=name) as caught:
        image.read(LIMIT)
    assert caught.value.refusal == Refusal.OUTSIDE_SOURCE


@pytest.mark.parametrize("select", ["..", "../other", "/"])
def test_a_class_folder_outside_the_location_is_refused(tmp_path: Path, select: str) -> None:
    place(tmp_path, "other/train/good/a.png", "data/bolt/train/good/a.png")
    with pytest.raises(ValueError, match=r"leaves .*correct classes\.bolt\.select"):
        listed("mvtec", tmp_path / "data", select=select)


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class 'bolt': unknown source 'mvtek'; did you mean mvtec\?"):
        listed("mvtek", tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_a_missing_location_tells_the_way_out(tmp_path: Path, source: str) -> None:
    select = {"elpv": "mono", "textile": "simulated"}.get(source, "")
    with pytest.raises(FileNotFoundError, match="run `shadowline data fetch`"):
        listed(source, tmp_path / "nowhere", select=select)


@pytest.mark.parametrize("source", ["mvtec", "loco"])
def test_a_folder_of_another_layout_names_the_expected_one(tmp_path: Path, source: str) -> None:
    place(tmp_path, "bolt/000.png")
    with pytest.raises(ValueError, match=r"class 'bolt': 0 images in .*expected train/good"):
        listed(source, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nut"):
        listed(source, tmp_path, select="nut")


@pytest.mark.demo
@pytest.mark.parametrize(
    ("class_name", "labels"),
    [
        ("solar_mono", {"normal": 588, "anomalous": 313, "unknown": 173}),
        ("solar_poly", {"normal": 920, "anomalous": 402, "unknown": 228}),
        ("textile", {"normal": 1000, "anomalous": 1000}),
    ],
)
def test_the_demo_wheels_hold_what_the_design_says(class_name: str, labels: dict[str, int]) -> None:
    params = load_params(ROOT / "params.yaml").classes[class_name]
    if not (ROOT / params.location).is_file():
        pytest.skip(f"{params.location} is not there; run `shadowline data fetch`")
    images = list_images(class_name, params, ROOT)
    assert Counter(image.label.value for image in images) == labels
    picture = open_within(images[-1].read(LIMIT), ImageLimits(100_000, LIMIT))
    assert picture.size == ((250, 250) if class_name == "textile" else (300, 300))
