"""Images from a folder through both models: what is no file is named, and holds up nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from shadowline.data.images import ImageLimits, RefusedImage
from shadowline.data.manifest import content_id
from shadowline.inference.shadow_batch import Capture, find_images

LIMITS = ImageLimits(10_000, 10_000)


def test_a_pipe_a_dangling_link_and_a_loop_are_listed_and_refused(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "sound.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "notes.txt").write_text("no image")
    paths = find_images(tmp_path)
    assert [path.name for path in paths] == ["gone.png", "loop.png", "pipe.png", "sound.png"]
    for path in paths[:3]:
        with pytest.raises(RefusedImage, match=path.name):
            Capture.of_file(path, LIMITS)
    assert Capture.of_file(paths[3], LIMITS).image_id == content_id(paths[3].read_bytes())
