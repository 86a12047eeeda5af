"""Loads a detector from its recorded location; a kind of detector is imported with the first model of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from shadowline.core.atomic_files import read_json
from shadowline.models.detector import Detector
from shadowline.models.external.description import DESCRIPTION, ONNX_FILE, PYFUNC_FILE, find_description
from shadowline.models.registry_uri import resolve


class DetectorKind(StrEnum):
    """What lies in a model's directory."""

    INSPECTOR = "inspector"  # a packaged multi-class model
    PATCHCORE = "patchcore"  # saved by `shadowline.models.patchcore.detector`
    WINCLIP = "winclip"  # saved by `shadowline.models.winclip.detector`
    ONNX = "onnx"  # model.onnx and detector.json
    PYFUNC = "pyfunc"  # an MLflow model and detector.json
    FEW_SHOT = "few_shot"  # saved by `shadowline.models.few_shot.detector`


_PLACES = ("", "artifacts/inspector", "artifacts/legacy")  # in a directory, or in what the registry keeps


def load_detector(location: str, class_name: str) -> Detector:
    """The detector of one class: a directory of any kind, or a `models:/…` URI of one.

    Raises FileNotFoundError, or ValueError where the files are not what was saved, or are of another class.
    """
    directory, version, kind = _find(location)
    if kind is DetectorKind.INSPECTOR:
        from shadowline.models.inspector import Inspector
        from shadowline.models.inspector_detector import CandidateDetector

        return CandidateDetector(Inspector.load(directory, version), class_name)
    detector = _load(directory, kind)
    if detector.class_name != class_name:
        raise ValueError(
            f"{location}: a model of class '{detector.class_name}', not '{class_name}'; name the right one"
        )
    return detector


def find_model(location: str) -> tuple[Path, DetectorKind]:
    """The directory of the model's own files and its kind; raises FileNotFoundError where there is no model."""
    directory, _, kind = _find(location)
    return directory, kind


def _find(location: str) -> tuple[Path, str, DetectorKind]:
    """Directory, version and kind."""
    folder, version = resolve(location, inside="")
    if not folder.is_dir():
        raise FileNotFoundError(f"{location}: no such directory; name that of a model, or a version: models:/NAME/3")
    for place in _PLACES:
        kind = _kind_of(folder / place)
        if kind is not None:
            return folder / place, version, kind
    raise FileNotFoundError(
        f"{location}: no model, since there is no config.json or detector.json; name a model's directory or version"
    )


def place_of(location: str | Path) -> str:
    """A location that means the same from every working directory."""
    text = str(location)
    return text if text.startswith("models:/") else str(Path(text).resolve())


def _load(directory: Path, kind: DetectorKind) -> Detector:
    """Imports are local: not every process that names a location needs torch, or the detectors it does not load."""
    if kind is DetectorKind.PATCHCORE:
        from shadowline.models.patchcore.detector import PatchCore

        return PatchCore.load(directory)
    if kind is DetectorKind.FEW_SHOT:
        from shadowline.models.few_shot.detector import FewShot

        return FewShot.load(directory)
    if kind is DetectorKind.WINCLIP:
        from shadowline.models.winclip.detector import WinClip

        return WinClip.load(directory)
    if kind is DetectorKind.ONNX:
        from shadowline.models.external.onnx import OnnxDetector

        return OnnxDetector.load(directory)
    from shadowline.models.external.pyfunc import PyfuncDetector

    return PyfuncDetector.load(directory)


def _kind_of(directory: Path) -> DetectorKind | None:
    if (directory / ONNX_FILE).is_file() and (directory / DESCRIPTION).is_file():
        return DetectorKind.ONNX
    if (directory / PYFUNC_FILE).is_file() and find_description(directory).is_file():
        return DetectorKind.PYFUNC
    config = directory / "config.json"
    if not config.is_file():
        return None
    fields = read_json(config)
    if fields.get("kind") == DetectorKind.FEW_SHOT:
        return DetectorKind.FEW_SHOT
    if "window_scales" in fields:
        return DetectorKind.WINCLIP
    return DetectorKind.PATCHCORE if "coreset_share" in fields else DetectorKind.INSPECTOR
