"""What an image shows, and what it is used for."""

from __future__ import annotations

from enum import StrEnum


class Split(StrEnum):
    TRAIN = "train"  # normal only: decoder and banks
    VAL = "val"  # normal only: selection and calibration
    TUNE = "tune"  # known defects that may choose a class's recipe; they never train, calibrate or evaluate
    TEST = "test"  # normal and anomalous: evaluation; nothing is chosen on it
    STREAM = "stream"  # plays production


class Label(StrEnum):
    NORMAL = "normal"
    ANOMALOUS = "anomalous"
    UNKNOWN = "unknown"
