"""What the name of a folder says: which images lie in it, in English, German or Korean, in any case and spelling.

    meaning_of("01_Good images")     # Meaning.NORMAL
    meaning_of("N.i.O.")             # Meaning.DEFECT
    meaning_of("scratch")            # None: a kind of defect, or a product
    split_of("test_public")          # Split.TEST

Case, digits, punctuation and words such as "images" do not count. `classes.<name>.normal_folders` adds names to the
list of one class.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection
from enum import StrEnum

from shadowline.data.labels import Split


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NORMAL = _words("""
    good ok okay normal normals nominal pass passed accept accepted intact nodefect nodefects defectfree nondefective
    nonanomalous noanomaly
    gut gutteil gutteile io inordnung fehlerfrei fehlerlos einwandfrei
    정상 정상품 양품 양호 합격 합격품 무결함
""")
_DEFECT = _words("""
    bad ng nok ko notok notgood nogood defect defects defective faulty fault faults fail failed reject rejected rejects
    anomaly anomalies anomalous abnormal scrap
    schlecht schlechtteil schlechtteile fehler fehlerhaft defekt defekte ausschuss nio nichtio nichtinordnung nichtok
    mangelhaft
    불량 불량품 결함 비정상 이상 불합격 불합격품
""")
_MASKS = _words("groundtruth gt gtmask gtmasks mask masks maske masken defectmask defectmasks 마스크")
_MASKS_AT_TOP = _words("label labels annotation annotations segmentation segmentations")  # elsewhere kinds of defects
_CONTENT = _words("image images img imgs picture pictures bild bilder teil teile part parts 이미지 사진")
_SPLITS = {
    Split.TRAIN: _words("train training trainset trainingset 학습 훈련"),
    Split.VAL: _words("validation val valid validationset validierung 검증"),
    Split.TEST: _words("test testing testset testpublic 테스트 평가"),
    Split.STREAM: _words("testprivate testprivatemixed unlabeled unlabelled"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_SPELLING = 0.8  # likeness (difflib's ratio) from which on a name counts as misspelt: goood and norml, but not wood

_SYSTEM_FOLDERS = _words("""
    @eadir @tmp @recycle #recycle #snapshot @recently-snapshot @sharebin __macosx lost+found $recycle.bin recycler
    found.000 __pycache__
""") | {"system volume information", "network trash folder", "temporary items"}
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "autorun.inf"})
_SYSTEM_PREFIXES = (".", "~$", "synofile_thumb", "synophoto_thumb")


class Meaning(StrEnum):
    NORMAL = "normal"  # a folder of normal images
    DEFECT = "defect"  # a folder of images with defects, of a kind that is not named
    CONTENT = "content"  # says nothing: "images"
    MASKS = "masks"  # a folder of masks


def meaning_of(name: str, normal_folders: Collection[str] = (), *, at_top: bool = True) -> Meaning | None:
    """What images lie in a folder of this name; None for a name of its own, such as that of a kind of defect.

    `normal_folders`: more names of folders with normal images. `at_top`: right below the folder of the class, where
    "labels" are masks and not a kind of defect.
    """
    word = _word(name)
    if word in _NORMAL or any(word == _word(normal) or name == normal for normal in normal_folders):
        return Meaning.NORMAL
    if word in _DEFECT:
        return Meaning.DEFECT
    if word in _MASKS or (at_top and word in _MASKS_AT_TOP):
        return Meaning.MASKS
    return Meaning.CONTENT if not word and _letters(name) else None


def split_of(name: str) -> Split | None:
    """The split that a folder of this name holds; STREAM for images whose labels are not published."""
    return _SPLIT_OF.get("".join(_letters(name)))


def misspelt_normal(name: str) -> str | None:
    """The word for normal images that a name without a meaning nearly is, or None."""
    nearest = difflib.get_close_matches(_word(name), ("good", "normal", "okay"), n=1, cutoff=_SPELLING)
    return nearest[0] if nearest else None


def is_system_folder(name: str) -> bool:
    """Whether a storage device, an operating system or a program keeps its own files there."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Whether an operating system or a file manager left the file behind."""
    return name.casefold() in _SYSTEM_FILES or name.casefold().startswith(_SYSTEM_PREFIXES)


def _letters(name: str) -> list[str]:
    """The runs of letters in a name, in lower case."""
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", name).casefold())


def _word(name: str) -> str:
    """All letters of a name as one word, without words such as "images"."""
    return "".join(word for word in _letters(name) if word not in _CONTENT)
