"""Images that came to a class after its source: by a bank update, or labelled in production.

    additions = Additions(layout.additions, "bolt")
    index = additions.write([addition, …])       # sha256 of the list; params.yaml names it, and DVC with it
    additions.read(index)                        # the list; ValueError where its sha256 is not its name

    <additions>/<class>/images/<image_id>.png    the bytes as they came, one file per content
    <additions>/<class>/<index>.json             one batch of images: labels, dates, origins

Lists are never changed, so that a registered version can be reproduced after later additions. A list that params.yaml
does not name belongs to an update that was refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import CLASS_NAME_PATTERN, ClassParams, DataParams
from shadowline.data.images import SUFFIX_OF, RefusedImage, measure_image
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import content_id, read_manifest
from shadowline.data.sources.source_image import GOOD, Read, SourceImage, reader

_KIND = re.compile(CLASS_NAME_PATTERN)  # of defects
_NAMED_BY = 12  # characters of an index in the manifest's column `source`


@dataclass(frozen=True)
class Offer:
    """One image that is offered to a class."""

    name: str  # for messages
    kind: str  # good, or the kind of its defect
    read: Read
    origin: str  # where it comes from and, if a person has labelled it, who and when
    split_hint: Split | None = None
    captured_at: datetime | None = None  # with a time zone


@dataclass(frozen=True)
class Addition:
    """One image that was kept."""

    image_id: str
    file_name: str
    label: str
    defect_type: str  # "" for normals
    split_hint: str  # "" where its content decides
    captured_at: str  # ISO 8601; "" where it is unknown
    received_at: str
    origin: str


@dataclass(frozen=True)
class KnownImage:
    """An image that a class holds."""

    class_name: str
    label: str


@dataclass(frozen=True)
class Intake:
    """The result for a batch of offered images."""

    new: tuple[Addition, ...]
    num_known: int  # in the class already, or offered twice
    refused: tuple[str, ...]  # name and reason


@dataclass(frozen=True)
class Additions:
    """The images that were added to one class after its source."""

    root: Path
    class_name: str

    @property
    def folder(self) -> Path:
        return self.root / self.class_name

    def keep(
        self, offers: Iterable[Offer], known: Mapping[str, KnownImage], limits: DataParams, received_at: datetime
    ) -> Intake:
        """Store the offered images that are new; `known`: the images of all classes, by id.

        Refused, by name: files that are no image, images of another class, and images known with another label.
        """
        seen, new, refused, num_known = dict(known), list[Addition](), list[str](), 0
        for offer in offers:
            try:
                addition, data = _check(offer, limits, received_at)
            except RefusedImage as error:
                refused.append(str(error))
                continue
            held = seen.get(addition.image_id)
            if held is None:
                seen[addition.image_id] = KnownImage(self.class_name, addition.label)
                self._put(addition.file_name, data)
                new.append(addition)
            elif reason := self._contradiction(addition, held):
                refused.append(f"{offer.name}: {reason}")
            else:
                num_known += 1
        return Intake(tuple(new), num_known, tuple(refused))

    def write(self, additions: Sequence[Addition]) -> str:
        """Write the list of images that came together; returns its sha256."""
        ordered = sorted(additions, key=lambda addition: addition.image_id)
        text = json.dumps([asdict(addition) for addition in ordered], indent=1, sort_keys=True, ensure_ascii=False)
        index = hashlib.sha256(text.encode()).hexdigest()
        with replace_file(self._list(index)) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return index

    def read(self, index: str) -> tuple[Addition, ...]:
        """Raises FileNotFoundError for a list that is gone, ValueError for one that was changed."""
        path = self._list(index)
        if not path.is_file():
            raise FileNotFoundError(
                f"class '{self.class_name}': {path}: no such file, though params.yaml names it; restore a backup"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != index:
            raise ValueError(f"class '{self.class_name}': {path}: not what its name says; restore a backup")
        return tuple(Addition(**fields) for fields in json.loads(data))

    def images(self, index: str, *, bank_only: bool) -> list[SourceImage]:
        """The images of one list, as a source presents them."""
        return [self._image(addition, index, bank_only) for addition in self.read(index)]

    def check(self, indexes: Iterable[str]) -> None:
        """Raises FileNotFoundError or ValueError where a list or an image is missing."""
        for index in indexes:
            self.images(index, bank_only=False)

    def _contradiction(self, addition: Addition, held: KnownImage) -> str:
        """Why an addition contradicts the known image with its id; "" where it does not."""
        if held.class_name != self.class_name:
            return f"the same image is in class '{held.class_name}'; an image belongs to one class"
        if held.label not in (addition.label, Label.UNKNOWN):
            return f"comes as {addition.label}, and is in the class as {held.label}; correct one of the two labels"
        return ""

    def _image(self, addition: Addition, index: str, bank_only: bool) -> SourceImage:
        path = self._path(addition.file_name)
        if not path.is_file():
            raise FileNotFoundError(f"class '{self.class_name}': {path}: no such file; restore it from a backup")
        return SourceImage(
            name=f"{index[:_NAMED_BY]}/{addition.origin}",
            label=Label(addition.label),
            defect_type=addition.defect_type,
            split_hint=Split(addition.split_hint) if addition.split_hint else None,
            read=reader(self.folder, path),
            captured_at=datetime.fromisoformat(addition.captured_at) if addition.captured_at else None,
            received_at=datetime.fromisoformat(addition.received_at),
            bank_only=bank_only,
            image_id=addition.image_id,
        )

    def _put(self, file_name: str, data: bytes) -> None:
        path = self._path(file_name)
        if path.is_file() and path.read_bytes() == data:
            return
        with replace_file(path) as temporary:
            temporary.write_bytes(data)

    def _path(self, file_name: str) -> Path:
        return self.folder / "images" / file_name

    def _list(self, index: str) -> Path:
        return self.folder / f"{index}.json"


def list_additions(class_name: str, params: ClassParams, root: Path) -> list[SourceImage]:
    """All additions to a class, in the order in which they came; `root`: `Layout.additions`."""
    additions = Additions(root, class_name)
    return [
        image
        for addition in params.additions
        for image in additions.images(addition.index, bank_only=not addition.trained)
    ]


def known_images(classes: Mapping[str, ClassParams], layout: Layout) -> dict[str, KnownImage]:
    """The images of all classes by id: those of the manifests, and those that the next import will add to them."""
    images: dict[str, KnownImage] = {}
    for name, params in classes.items():
        added = [
            image for addition in params.additions for image in Additions(layout.additions, name).read(addition.index)
        ]
        images |= {image.image_id: KnownImage(name, image.label) for image in added}
        if layout.manifest(name).is_file():
            manifest = read_manifest([layout.manifest(name)])
            labels = zip(manifest["image_id"], manifest["label"], strict=True)
            images |= {image_id: KnownImage(name, label) for image_id, label in labels}
    return images


def _check(offer: Offer, limits: DataParams, received_at: datetime) -> tuple[Addition, bytes]:
    if not _KIND.fullmatch(offer.kind):
        raise ValueError(f"{offer.name}: kind {offer.kind!r}: use good, or a name of a-z, 0-9, _ and -")
    data = offer.read(limits.max_file_bytes + 1)
    properties = measure_image(data, limits, name=offer.name)
    image_id = content_id(data)
    is_normal = offer.kind == GOOD
    addition = Addition(
        image_id=image_id,
        file_name=f"{image_id}{SUFFIX_OF[properties.format]}",
        label=str(Label.NORMAL if is_normal else Label.ANOMALOUS),
        defect_type="" if is_normal else offer.kind,
        split_hint=str(offer.split_hint or ""),
        captured_at=offer.captured_at.isoformat() if offer.captured_at else "",
        received_at=received_at.isoformat(),
        origin=offer.origin,
    )
    return addition, data
