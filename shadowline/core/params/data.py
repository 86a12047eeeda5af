"""Sections of `params.yaml` on the images: classes, import, validation."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shadowline.core.params.base import FrozenModel, Positive, Severity, Share

_S3 = "s3://"
_COPIES = "data/sources"  # of images in S3, see tasks/training/source_copies.py


class AdditionParams(FrozenModel):
    """Images of a class that came after its source; see `shadowline/data/additions.py`."""

    index: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # sha256 of the list of them, which is named by it
    trained: bool = False  # a full retraining has taken them in; until then they are in bank and calibration alone


class ClassParams(FrozenModel):
    """What is one product class's own: where its images come from, and what is promised for it.

    A field that a stage reads belongs into shadowline/stages/classes.py, too.
    """

    source: str  # importer: folder | mvtec | mvtec2 | loco | btad | visa | realiad | kolektor | elpv | textile
    location: str  # folder or file that the importer reads
    copy_of: str = ""  # s3:// prefix that the location is a copy of; `shadowline retrain` brings it up to date
    select: str = ""  # which part of the location, in the importer's words
    normal_folders: tuple[str, ...] = ()  # names of folders with normal images, beside good, ok, normal, gut, 정상, …
    links_to: str = ""  # folder outside of the location that links in it may lead to, e.g. of a storage device
    augment: tuple[str, ...] = ()  # declared views of the training images, e.g. rot90, hflip
    test_share: Share | None = None  # in the place of data.test_share
    val_share: Share | None = None  # in the place of data.val_share
    target_fpr: Annotated[float, Field(gt=0, lt=1)] | None = None  # promise, in the place of calibration.target_fpr
    bit_depth: Literal[8, 10, 12, 14, 16] | None = None  # of files with 16 bits a value; None: found from their values
    additions: tuple[AdditionParams, ...] = ()  # images that came later, in their order; written by program

    @model_validator(mode="after")
    def _stages_read_local_files(self) -> ClassParams:
        bucket = self.copy_of.removeprefix(_S3) if self.copy_of.startswith(_S3) else ""
        if self.location.startswith(_S3):
            name = self.location.removeprefix(_S3).strip("/")
            raise ValueError(
                f"location {self.location}: stages read local files; set location: {_COPIES}/{name} and "
                f"copy_of: {self.location}"
            )
        if self.copy_of and not bucket.strip("/"):
            raise ValueError(f"copy_of {self.copy_of}: need s3://BUCKET/PREFIX")
        parts = PurePosixPath(self.location).parts
        is_copy = parts[:2] == PurePosixPath(_COPIES).parts and len(parts) > 2 and ".." not in parts
        if self.copy_of and not is_copy:
            raise ValueError(
                f"location {self.location}: a copy of images in S3 lies below {_COPIES}, since files that are gone "
                f"from S3 are removed from it; set location: {_COPIES}/{bucket.strip('/')}"
            )
        return self


class DataParams(FrozenModel):
    max_train: Positive  # images per class
    max_val: Positive  # images per class, normal only
    max_test_normal: Positive  # images per class
    max_test_anomalous: Positive  # images per class
    max_tune: Annotated[int, Field(ge=0)]  # known defects per class that selection may use; 0: injected ones instead
    val_share: Share  # of a class's training normals, before max_val
    min_val: Annotated[int, Field(ge=0)]  # images per class that val_share is raised to, up to half of those normals
    test_share: Share  # of a class's normals, where the source has no normal test images
    injected_test: Annotated[int, Field(ge=0)]  # test defects per injected kind, for a class without any of its own
    max_pixels: Positive  # pixels per image
    max_file_bytes: Positive  # bytes per image file
    max_refused_share: Share  # of a class's files; more fail the import
    exif_orientation: bool  # turn pictures upright as their EXIF orientation says; masks are then drawn on them so


class SeverityParams(FrozenModel):
    min_normal: Severity  # of too few normal training images
    known_labels: Severity  # of a label, split or class name that is none
    consistent_size: Severity  # of images of more than one size
    consistent_mode: Severity  # of images of more than one colour mode
    grey_levels: Severity  # of images with fewer grey levels than min_grey_levels
    brightness_range: Severity  # of brightness outside robust_range
    contrast_range: Severity  # of contrast outside robust_range
    sharpness_range: Severity  # of sharpness outside robust_range
    unique_across_splits: Severity  # of an image in two splits or two classes
    train_is_normal: Severity  # of an anomalous image in train or val
    class_balance: Severity  # of classes of too different size, see max_balance_ratio
    masks_match: Severity  # of a mask that is unreadable, empty or of another size than its image


class ValidationParams(FrozenModel):
    min_normal: Positive  # normal training images per class
    robust_range: float = Field(gt=0)  # robust sigmas around the class median
    min_grey_levels: Annotated[int, Field(ge=1, le=256)]  # different grey values of an image, after its bit depth
    max_balance_ratio: float = Field(ge=1)  # largest class / smallest class, training normals
    severity: SeverityParams  # what each check does when it fails
