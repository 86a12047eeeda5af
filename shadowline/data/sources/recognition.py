"""What lies in a folder that nobody prepared: which data set, which classes, how many images of which kind.

    dataset = recognise(Path("/srv/images"))
    dataset.layout                                  # MVTec AD
    dataset.classes[0]                              # FoundClass(name="bottle", source="mvtec", …)

The counts come from the importers that the import uses, so that what is shown is what is imported.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shadowline.core.params import ClassParams, class_key
from shadowline.core.printable import some_of
from shadowline.data.labels import Label, Split
from shadowline.data.sources import Listing, list_location, realiad
from shadowline.data.sources.folder import list_folder
from shadowline.data.sources.folder_words import (
    Meaning,
    is_system_file,
    is_system_folder,
    meaning_of,
    split_of,
)
from shadowline.data.sources.image_tree import PlacedFile
from shadowline.data.sources.mask_files import masks_beside
from shadowline.data.sources.source_image import IMAGE_SUFFIXES, class_folder, walk

_HERE = "."  # `select` for a location that is the folder of the class
_PLAIN = "plain folder"
_BESIDE = "beside the folders of the classes"
_MIN_PARTS = 2  # of a folder's path, the root of the file system among them
_MAX_STEM = 60  # characters before a number that tells equal names apart
_MAX_DEPTH = 4  # folders above those of the classes
_MIN_MASKED = 3  # a mask for at least every third file: of images with masks beside them, nearly every second is one
_PART = re.compile(r"kos\d+", re.IGNORECASE)  # a folder of KolektorSDD
_NUM_NAMED = 5  # files or folders that an error names
_HOW = (
    "lay it out as CLASS/good/ with normal images and CLASS/NAME/ for each kind of defect, or as "
    "CLASS/train/good, CLASS/test/good and CLASS/test/NAME"
)


@dataclass(frozen=True)
class FoundClass:
    """A class as params.yaml would name it, with the number of its images before anything is refused or split."""

    name: str  # a legal class key
    source: str  # importer
    location: str
    select: str | None
    num_normal: int  # to train, to validate, or still to be split
    num_test_normal: int  # that the source itself puts into its test split
    defects: Mapping[str, int]  # kind → images
    num_masks: int  # images with a mask
    num_unknown: int = 0  # images without a label
    links_to: str = ""  # folder outside of the location that links in it lead to; they are read where it is declared

    @property
    def params(self) -> ClassParams:
        """Its entry in params.yaml."""
        return ClassParams(source=self.source, location=self.location, select=self.select or "", links_to=self.links_to)


@dataclass(frozen=True)
class FoundDataset:
    layout: str
    classes: tuple[FoundClass, ...]
    left_out: Mapping[str, tuple[Path, ...]]  # reason → files


@dataclass(frozen=True)
class _Candidate:
    """A class that is assumed, and how it would be imported."""

    name: str
    layout: str
    source: str
    location: Path
    select: str | None


def recognise(folder: Path) -> FoundDataset:
    """The classes below a folder, by the layout of its files; their locations are absolute.

    Raises FileNotFoundError for a missing folder, and ValueError where no layout fits or an importer refuses one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the one that holds the images")
    folder = folder.absolute()
    candidates = _distinct(_candidates(folder, _MAX_DEPTH))
    if not candidates:
        raise ValueError(f"{folder}: no images of a class found; seen: {_seen(folder)}; {_HOW}")
    links = {location: _target_of_links(location) for location in {candidate.location for candidate in candidates}}
    found = [_find(candidate, links[candidate.location]) for candidate in candidates]
    left_out = _merged([{_BESIDE: _beside(folder, candidates)}, *(listing.left_out for _, listing in found)])
    layout = ", ".join(sorted({candidate.layout for candidate in candidates}))
    return FoundDataset(layout, tuple(found_class for found_class, _ in found), left_out)


def list_class(folder: Path, class_name: str) -> tuple[Path, Listing]:
    """The images of one class, from a folder of its own in any layout, or from a data set that names the class.

    Returns the folder that the names of the images count from, too.

    Images right in the folder are normal, and those in a folder whose name says nothing else show the defect that it
    names; there may be none. Raises FileNotFoundError for a missing folder, and ValueError for one of several classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the one that holds the images")
    folder = folder.absolute()
    candidates = [
        candidate
        for candidate in _distinct(_candidates(folder, _MAX_DEPTH))
        if candidate.layout != _PLAIN or candidate.location == folder
    ]
    named = [candidate for candidate in candidates if candidate.name == class_name]
    chosen = named if len(candidates) > 1 else candidates
    if chosen:
        return chosen[0].location, list_location(class_name, _params_of(chosen[0]))
    if candidates:
        names = [candidate.name for candidate in candidates]
        raise ValueError(
            f"class '{class_name}': {folder} holds {len(names)} other classes ({some_of(names, _NUM_NAMED)}); "
            "name the folder of one"
        )
    own = ClassParams(source="folder", location=str(folder), select=_HERE)
    return folder, list_folder(class_name, own, class_folder(class_name, own, Path()))


def _candidates(folder: Path, depth: int) -> list[_Candidate]:
    """Classes in `folder` or below it, in the order of their names."""
    for find in _LAYOUTS:
        if candidates := find(folder):
            return candidates
    if depth == 0:
        return []
    return [candidate for child in _folders(folder) for candidate in _candidates(child, depth - 1)]


def _one_class(folder: Path) -> list[_Candidate]:
    """The folder itself as one class, if it has a folder of a split or of normals, or pictures and no such class."""
    names = [child.name for child in _folders(folder)]
    if any(split_of(name) is Split.TRAIN for name in names):
        source, layout = _published(folder, names)
    elif _is_class(folder):
        source, layout = "folder", "good and bad folders"
    elif any(map(_is_picture, _entries(folder))) and not any(map(_is_class, _folders(folder))):
        source, layout = "folder", _PLAIN
    else:
        return []
    return [_Candidate(_name_of(folder), layout, source, folder, _HERE)]


def _is_class(folder: Path) -> bool:
    """Whether a folder below says that it holds normal images, or those of a split."""
    names = [child.name for child in _folders(folder)]
    return any(meaning_of(name) is Meaning.NORMAL or split_of(name) is Split.TRAIN for name in names)


def _name_of(folder: Path) -> str:
    return class_key(folder.name if folder.name not in ("", "..") else folder.resolve().name)


def _published(folder: Path, names: Sequence[str]) -> tuple[str, str]:
    """Importer and name of the data set that a folder with train/ looks like."""
    kinds = {child.name for split in ("train", "test") for child in _folders(folder / split)}
    if "test_public" in names:
        return "mvtec2", "MVTec AD 2"
    if "logical_anomalies" in kinds or "structural_anomalies" in kinds:
        return "loco", "MVTec LOCO AD"
    if "ok" in kinds and kinds <= {"ok", "ko"}:
        return "btad", "BTAD"
    if (folder / "train" / "good").is_dir() and "test" in names:
        return "mvtec", "MVTec AD"
    return "folder", "train and test folders"


def _real_iad(folder: Path) -> list[_Candidate]:
    """A class for each table of the preferred set: that of the first folder with tables."""
    paths = realiad.tables(folder)
    names = [path.stem for path in paths if path.parent == paths[0].parent]
    return [_of_table(name, "Real-IAD", "realiad", folder) for name in names]


def _visa(folder: Path) -> list[_Candidate]:
    names = [child.name for child in _folders(folder) if (child / "image_anno.csv").is_file()]
    if not names and (folder / "split_csv/1cls.csv").is_file():
        names = [child.name for child in _folders(folder) if (child / "Data/Images").is_dir()]
    return [_of_table(name, "VisA", "visa", folder) for name in names]


def _of_table(name: str, layout: str, source: str, folder: Path) -> _Candidate:
    """A class whose table counts from the folder above it, so that `select` may have to name it."""
    key = class_key(name)
    return _Candidate(key, layout, source, folder, None if key == name else name)


def _kolektor(folder: Path) -> list[_Candidate]:
    """One class, in folders for parts (kos01) or for splits, whose images have masks beside them."""
    inner = [child for child in _folders(folder) if any(map(_is_picture, _entries(child)))]
    is_first = all(_PART.fullmatch(child.name) for child in inner)
    is_second = all(split_of(child.name) for child in inner)
    if not inner or not (is_first or is_second) or not all(map(_has_masks_beside, inner)):
        return []
    layout = "KolektorSDD" if is_first else "KolektorSDD2"
    return [_Candidate(_name_of(folder), layout, "kolektor", folder, _HERE)]


def _has_masks_beside(folder: Path) -> bool:
    pictures = [PlacedFile(path, None, ()) for path in _entries(folder) if _is_picture(path)]
    return len(masks_beside(pictures)) * _MIN_MASKED >= len(pictures)


_LAYOUTS: tuple[Callable[[Path], list[_Candidate]], ...] = (_real_iad, _visa, _kolektor, _one_class)  # the first fits


def _find(candidate: _Candidate, links_to: str) -> tuple[FoundClass, Listing]:
    """The class as its importer lists it."""
    listing = list_location(candidate.name, _params_of(candidate, links_to))
    normals = [image for image in listing.images if image.label is Label.NORMAL]
    num_test_normal = sum(image.split_hint is Split.TEST for image in normals)
    found = FoundClass(
        name=candidate.name,
        source=candidate.source,
        location=str(candidate.location),
        select=candidate.select,
        num_normal=len(normals) - num_test_normal,
        num_test_normal=num_test_normal,
        defects=dict(Counter(image.defect_type for image in listing.images if image.label is Label.ANOMALOUS)),
        num_masks=sum(bool(image.read_masks) for image in listing.images),
        num_unknown=sum(image.label is Label.UNKNOWN for image in listing.images),
        links_to=links_to,
    )
    return found, listing


def _params_of(candidate: _Candidate, links_to: str = "") -> ClassParams:
    return ClassParams(
        source=candidate.source,
        location=str(candidate.location),
        select=candidate.select or "",
        links_to=links_to,
    )


def _target_of_links(location: Path) -> str:
    """The folder above all targets of links that lead out of the location; "" where there are none, or no such folder.

    The root of the file system and a folder right below it are too much to declare.
    """
    links = [path.resolve() for path in walk(location).kept if path.is_symlink()]
    targets = [target for target in links if not target.is_relative_to(location.resolve())]
    folders = [target if target.is_dir() else target.parent for target in targets]
    common = Path(os.path.commonpath(folders)) if folders else Path("/")
    return str(common) if len(common.parts) > _MIN_PARTS else ""


def _beside(folder: Path, candidates: Sequence[_Candidate]) -> tuple[Path, ...]:
    """The files below `folder` that lie in no class; tables that name images one by one are not asked."""
    locations = {candidate.location for candidate in candidates}
    if folder in locations:
        return ()
    return tuple(path for path in walk(folder).kept if not locations & {path, *path.parents})


def _merged(parts: Iterable[Mapping[str, tuple[Path, ...]]]) -> dict[str, tuple[Path, ...]]:
    merged: dict[str, tuple[Path, ...]] = {}
    for part in parts:
        for reason, paths in part.items():
            merged[reason] = merged.get(reason, ()) + paths
    return {reason: paths for reason, paths in merged.items() if paths}


def _distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates with names that differ: before equal ones stands the name of the folder above, else a number."""
    times = Counter(candidate.name for candidate in candidates)
    taken: set[str] = set()
    distinct = []
    for candidate in candidates:
        name = candidate.name
        if times[name] > 1:
            name = class_key(f"{candidate.location.parent.name}_{name}")
        numbered = (f"{name[:_MAX_STEM]}_{number}" for number in itertools.count(2))
        free = next(key for key in itertools.chain([name], numbered) if key not in taken)
        taken.add(free)
        distinct.append(replace(candidate, name=free))
    return distinct


def _entries(folder: Path) -> list[Path]:
    """Files and folders right below, sorted; empty for a folder that is absent or cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    """Folders right below, without those of the system."""
    return [path for path in _entries(folder) if path.is_dir() and not is_system_folder(path.name)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_system_file(path.name) and not path.is_dir()


def _seen(folder: Path) -> str:
    """The first names below a folder, as an error shows them."""
    names = [f"{path.name}/" if path.is_dir() else path.name for path in _entries(folder)]
    return some_of(names, _NUM_NAMED) or "nothing"
