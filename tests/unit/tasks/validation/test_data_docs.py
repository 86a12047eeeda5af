"""The index of the data validation names the user's own files and shows them, whatever the files are called."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from shadowline.core.params import Severity
from shadowline.data.images import ImageLimits, open_within
from shadowline.data.validation_results import CheckResult, FailedRow
from tasks.validation.data_docs import THUMBNAIL_SIDE, settle, user_name

_LIMITS = ImageLimits(max_pixels=1_000_000, max_file_bytes=1_000_000)
_PATHS = [f"data/images/bolt/{digit * 8}.png" for digit in "abc"]
_SOURCES = dict(zip(_PATHS, ["line 1/<b>&.png", "IMG_0042.png", "gone.png"], strict=True))


def _check(num_failed_rows: int) -> CheckResult:
    rows = tuple(FailedRow(f"id-{path}", path, 0.91) for path in _PATHS)
    texts = {"observed": "1 of 4 rows as expected", "expected": "brightness 0.4 … 0.6", "way_out": "look at the image"}
    return CheckResult(
        "brightness_range", Severity.ADVISORY, passed=False, num_failed_rows=num_failed_rows, failed_rows=rows, **texts
    )


def _settled(root: Path, num_failed_rows: int = 3) -> Path:
    """The folder of the pages; the last image is not there."""
    for path in _PATHS[:2]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 200), "red").save(root / path)
    docs = root / "docs"
    page = docs / "validations/bolt/page.html"
    page.parent.mkdir(parents=True)
    page.write_text("<head></head><body><script src='https://elsewhere'></script></body>", encoding="utf-8")
    settle(docs, {"bolt": [_check(num_failed_rows)]}, _SOURCES, lambda path: open_within(root / path, _LIMITS))
    return docs


def test_failed_rows_are_shown_with_name_value_and_picture(tmp_path: Path) -> None:
    docs = _settled(tmp_path)
    index = (docs / "index.html").read_text(encoding="utf-8")
    assert "IMG_0042.png" in index and "line 1/&lt;b&gt;&amp;.png" in index and "gone.png" in index
    assert "<b>0.91</b>" in index and "look at the image" in index
    pictures = sorted((docs / "thumbnails").iterdir())
    assert [picture.name for picture in pictures] == ["aaaaaaaa.png", "bbbbbbbb.png"], "none of what cannot be read"
    for picture in pictures:
        assert f'src="thumbnails/{picture.name}"' in index
        with Image.open(picture) as thumbnail:
            assert thumbnail.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)
    assert '<a href="#bolt.brightness_range">' in index and 'id="bolt.brightness_range"' in index


def test_rows_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    assert "<p>7 more.</p>" in (_settled(tmp_path, 10) / "index.html").read_text(encoding="utf-8")


def test_the_pages_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert not [page for page in _settled(tmp_path).rglob("*.html") if "https://" in page.read_text(encoding="utf-8")]


def test_an_image_is_named_as_the_user_knows_it_and_as_the_project_keeps_it() -> None:
    assert user_name(_PATHS[1], _SOURCES) == f"IMG_0042.png ({_PATHS[1]})"
    assert user_name("data/images/bolt/new.png", _SOURCES) == "data/images/bolt/new.png"
