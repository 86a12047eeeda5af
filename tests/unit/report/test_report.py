from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fixtures.learning import ROOT
from fixtures.report import HARDNESS, write_inputs
from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.data.images import ImageLimits
from shadowline.evaluation.gates import Verdict
from shadowline.inference.overlay import inferno
from shadowline.report import build_report, heatmap_overlay
from shadowline.report.evaluation_data import read_contents
from shadowline.report.formatting import (
    Totals,
    duration,
    headline,
    headline_numbers,
    join_words,
    number,
    percent,
    promise,
    unit,
)
from shadowline.report.gallery import BYTES_PER_SHOT, MAX_PER_KIND, display_range, gallery, shots_per_kind
from shadowline.report.svg import Axis, Plot

LIMITS = ImageLimits(max_pixels=1_000_000, max_file_bytes=1_000_000)

CSS = (ROOT / "shadowline/report/report.css").read_text(encoding="utf-8")
GREY = Image.new("RGB", (64, 48), (120, 120, 120))


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Read only; a test that changes a file writes its own inputs."""
    return write_inputs(tmp_path_factory.mktemp("report"))


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    return write_inputs(tmp_path, hardness={"bolt": 5.0}, defects={"bolt": ("scratch",)})


def page_of(layout: Layout, params: Params) -> str:
    return build_report(layout, params).read_text(encoding="utf-8")


# --- the overlay


def hot_centre(peak: float = 10.0) -> np.ndarray:
    map_HW = np.zeros((8, 8))
    map_HW[3:5, 3:5] = peak
    return map_HW


def test_below_the_threshold_the_image_is_untouched() -> None:
    cold = np.full((8, 8), 1.9)
    assert np.array_equal(np.asarray(heatmap_overlay(GREY, cold, threshold=2.0)), np.asarray(GREY))


def test_colour_lies_where_the_map_is_high_at_the_image_s_size() -> None:
    overlay = heatmap_overlay(GREY, hot_centre(), threshold=4.0)
    pixels = np.asarray(overlay).astype(int)
    assert overlay.size == GREY.size
    assert np.ptp(pixels[24, 32]) > 60  # the centre is coloured
    assert (pixels[:8] == 120).all()  # the edge is not


def test_the_contour_is_white_and_can_be_left_out() -> None:
    with_line = np.asarray(heatmap_overlay(GREY, hot_centre(), threshold=4.0, line_width=2.0))
    without = np.asarray(heatmap_overlay(GREY, hot_centre(), threshold=4.0, line_width=0.0))
    assert (with_line == 255).all(axis=-1).sum() > 20
    assert not (without == 255).all(axis=-1).any()


def test_a_higher_map_is_brighter_on_one_common_scale() -> None:
    black = Image.new("RGB", (32, 32))
    brightness = [
        np.asarray(heatmap_overlay(black, np.full((4, 4), value), 2.0, high=10.0, line_width=0.0)).mean()
        for value in (3.0, 6.0, 9.0)
    ]
    assert brightness == sorted(brightness)
    assert brightness[0] < 0.7 * brightness[2]


def test_opacity_lets_the_image_through() -> None:
    faint = np.asarray(heatmap_overlay(GREY, np.full((4, 4), 9.0), 2.0, opacity=0.2, line_width=0.0)).astype(int)
    strong = np.asarray(heatmap_overlay(GREY, np.full((4, 4), 9.0), 2.0, opacity=1.0, line_width=0.0)).astype(int)
    assert np.abs(faint - 120).mean() < 0.3 * np.abs(strong - 120).mean()


def test_a_map_of_the_centre_crop_colours_only_the_crop() -> None:
    hot = np.full((4, 4), 9.0)
    pixels = np.asarray(heatmap_overlay(GREY, hot, 2.0, coverage=0.5, line_width=0.0)).astype(int)
    changed = (pixels != 120).any(axis=-1)
    assert changed[12:36, 16:48].all()
    assert changed.sum() == 24 * 32


@pytest.mark.parametrize(
    ("options", "sha256"),
    [
        ({}, "4588a65bc91a778ef9a37a8f281adcd420135b721f110346803d0427fc08acad"),
        (
            {"high": 20.0, "opacity": 1.0, "line_width": 0.0},
            "c78dc8caf166af42dde585d6ffcc377b8d0f31f554a28495b336e83c851c04d8",
        ),
        ({"coverage": 0.875}, "5a39ba8acb6b43c8f76abb2ff1da14a28f5286b497ee0f89039f4f46c501dfd1"),
    ],
)
def test_heat_maps_are_to_the_pixel_those_that_matplotlib_coloured(options: dict[str, float], sha256: str) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (180, 240, 3), dtype=np.uint8))
    overlay = heatmap_overlay(image, rng.gamma(2.0, 1.5, (16, 20)), 3.0, **options)
    assert hashlib.sha256(np.asarray(overlay).tobytes()).hexdigest() == sha256


def test_the_colours_are_those_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")  # MLflow brings it
    values = np.concatenate([np.linspace(0, 1, 4001), np.arange(257) / 256])
    assert np.array_equal(inferno(values), matplotlib.colormaps["inferno"](values)[:, :3])


@pytest.mark.parametrize(
    ("map_HW", "options", "words"),
    [
        (np.zeros(4), {}, "need \\(height, width\\)"),
        (np.zeros((0, 4)), {}, "neither of them 0"),
        (np.full((4, 4), np.nan), {}, "not finite"),
        (np.zeros((4, 4)), {"coverage": 0.0}, "coverage 0"),
        (np.zeros((4, 4)), {"opacity": 1.5}, "opacity 1.5"),
    ],
)
def test_an_unusable_map_is_refused(map_HW: np.ndarray, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        heatmap_overlay(GREY, map_HW, 1.0, **options)


# --- the page


class Elements(HTMLParser):
    """Tags, src and href of a page; fails on tags that are closed in another order than they were opened."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "circle", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.references += [value for key in ("src", "href", "xlink:href") if (value := named.get(key))]
        self.ids += [named["id"]] if named.get("id") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    @classmethod
    def of(cls, page: str) -> Elements:
        parser = cls()
        parser.feed(page)
        assert parser.open == []
        return parser


def test_the_page_is_whole_small_and_needs_nothing_from_outside(layout: Layout, params: Params) -> None:
    page = page_of(layout, params)
    elements = Elements.of(page)
    assert len(page) < 8_000_000
    assert "script" not in elements.tags
    outside = [
        reference
        for reference in elements.references
        if not reference.startswith(("data:", "#", "../validation/docs/"))
    ]
    assert outside == []
    assert "url(" not in page
    assert "@import" not in page
    assert not list(layout.report.parent.glob(".*"))


def test_every_internal_link_has_its_target(layout: Layout, params: Params) -> None:
    elements = Elements.of(page_of(layout, params))
    targets = {reference[1:] for reference in elements.references if reference.startswith("#")}
    assert targets <= set(elements.ids)
    assert len(elements.ids) == len(set(elements.ids))


def test_equal_inputs_give_equal_bytes(layout: Layout, params: Params) -> None:
    assert page_of(layout, params) == page_of(layout, params)


def test_worst_class_and_failed_checks_come_first(layout: Layout, params: Params) -> None:
    page = page_of(layout, params)
    sections = re.findall(r'<section class="class-section" id="class-(\d)">\s*<h2>(\w+)', page)
    assert [name for _, name in sections] == list(HARDNESS)
    pills = re.findall(r'<td><span class="pill (good|bad)">', page.split('id="classes"')[0])
    assert pills == sorted(pills)  # bad before good
    assert pills.count("bad") == 2


def test_refused_files_and_duplicates_are_named(layout: Layout, params: Params) -> None:
    page = page_of(layout, params)
    assert "scan_0113.png: the file ends before its last row" in page
    assert page.count("1 duplicate left out") == len(HARDNESS)
    assert "textile.brightness_range" in page


def test_the_headline_says_what_happened(layout: Layout, tmp_path: Path) -> None:
    refused = headline(read_contents(layout).summary)
    assert refused.startswith("The new model must not go further yet: 2 of 23 checks failed")
    assert "textile" in refused
    accepted = headline(read_contents(write_inputs(tmp_path, passed=True)).summary)
    assert "all 23 deciding checks passed." in accepted


def test_a_passed_model_with_failed_advice_says_so_at_the_top(tmp_path: Path) -> None:
    summary = read_contents(write_inputs(tmp_path, passed=True)).summary
    checks = [
        replace(check, passed=False, advisory=True)
        if (check.name, check.subject) == ("miss_rate", "textile")
        else check
        for check in summary.verdict.checks
    ]
    advised = headline(summary.model_copy(update={"verdict": Verdict.of(checks)}))
    assert "all 22 deciding checks passed. Not good enough, but only advice: miss rate of textile." in advised


def test_the_report_says_what_it_compared_with_and_what_a_shift_would_see(layout: Layout, params: Params) -> None:
    contents = read_contents(layout)
    words = headline_numbers(contents)
    totals = Totals.of(contents.classes)
    assert totals.fpr is not None and totals.fnr is not None
    assert "the single-class baseline, PatchCore: " in words
    assert f"about {1000 * totals.fpr:.0f} good parts stopped and {20 * totals.fnr:.0f} defective ones pass" in words
    assert "in use today" not in page_of(layout, params)


def test_what_comes_from_data_is_text_and_never_markup(tmp_path: Path, params: Params) -> None:
    name, defect = "<script>alert(1)", "</style></svg><script>alert('defect')</script>"
    layout = write_inputs(tmp_path, hardness={name: 5.0}, defects={name: (defect,)})
    assert name in json.loads(layout.history.read_text())["evaluations"][0]["per_class"]
    page = page_of(layout, params)
    assert "script" not in Elements.of(page).tags
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;/style&gt;&lt;/svg&gt;&lt;script&gt;" in page


OPTIONAL = {
    "models/decoder/history.json": "The training history",
    "data/validation/checks/overall.json": "The result of the data validation",
    "data/validation/docs/index.html": "was not built here",
    "models/inspector/config.json": "has not been packaged yet",
    ".shadowline/timings.json": "The time of each stage was not recorded",
    "models/calibration/bolt.json": "its calibration file is missing",
    "data/evaluation/bolt/maps.safetensors": "The anomaly maps of this class are missing",
    "data/import/bolt.json": "not recorded",
}


@pytest.mark.parametrize(("path", "sentence"), OPTIONAL.items())
def test_a_missing_optional_file_gives_a_sentence(small: Layout, params: Params, path: str, sentence: str) -> None:
    assert sentence not in page_of(small, params)
    (small.root / path).unlink()
    assert sentence in page_of(small, params)


def test_all_optional_files_may_be_missing_at_once(small: Layout, params: Params) -> None:
    for path in OPTIONAL:
        (small.root / path).unlink()
    page = page_of(small, params)
    assert all(sentence in page for path, sentence in OPTIONAL.items() if "docs" not in path)


@pytest.mark.parametrize(
    ("path", "way_out"),
    [
        ("data/summary.json", "dvc repro summary"),
        ("data/evaluation/bolt/metrics.json", "dvc repro evaluate@bolt"),
        ("data/evaluation/bolt/scores.parquet", "dvc repro evaluate@bolt"),
    ],
)
def test_a_missing_required_file_is_a_clear_error(small: Layout, params: Params, path: str, way_out: str) -> None:
    (small.root / path).unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(path)}: .*{way_out}"):
        build_report(small, params)
    assert not small.report.exists()


def test_a_broken_file_names_itself_and_its_wrong_field(small: Layout, params: Params) -> None:
    summary = json.loads(small.summary.read_text())
    del summary["verdict"]["passed"]
    write_json(small.summary, summary)
    with pytest.raises(ValueError, match=r"summary\.json: verdict\.passed: Field required"):
        build_report(small, params)
    small.summary.write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        build_report(small, params)


def test_maps_of_another_number_of_rows_are_refused(small: Layout) -> None:
    path = small.evaluation("bolt") / "scores.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(ValueError, match=r"need \(119, h, w\)"):
        read_contents(small)


def test_what_was_not_measured_is_a_dash(small: Layout, params: Params) -> None:
    path = small.metrics("bolt")
    metrics = json.loads(path.read_text())
    metrics["practicality"] |= {"flips": {}, "flip_share": None}
    write_json(path, metrics | {"pixel": None})
    summary = json.loads(small.summary.read_text())
    write_json(small.summary, summary | {"memory": None, "latency_ms": {}, "latency_measurement": {}})
    page = page_of(small, params)
    assert "Neither memory nor latency was measured" in page
    assert "Robustness was not measured" in page
    assert "nan" not in re.sub(r"data:image/jpeg;base64,[^\"]+", "", page).lower().replace("provenance", "")


def test_a_number_that_is_not_finite_is_refused(small: Layout) -> None:
    path = small.metrics("bolt")
    path.write_text(re.sub(r'"fpr": [\d.]+', '"fpr": NaN', path.read_text()))
    with pytest.raises(ValueError, match=r"bolt/metrics\.json: decisions\.fpr: "):
        read_contents(small)


def test_a_missing_image_becomes_a_placeholder(small: Layout, params: Params) -> None:
    assert "image not on disk" not in page_of(small, params)
    for path in small.images("bolt").glob("*.png"):
        path.unlink()
    page = page_of(small, params)
    assert "image not on disk" in page
    assert "data:image" not in page


def test_an_image_has_the_name_that_its_user_gave_it(small: Layout, params: Params) -> None:
    contents = read_contents(small).classes[0]
    path = contents.scores["path"].iloc[0]
    named = replace(contents, source_names={path: "line 7/<IMG_0042>.png"})
    names = {
        shot.path: shot.name
        for group in gallery(named, small.root, LIMITS, limit=99, coverage=1.0)
        for shot in group.shots
    }
    assert names[path] == "line 7/<IMG_0042>.png"
    assert all(name == other for other, name in names.items() if other != path), "where it is not known: the path"


def test_an_unreadable_image_becomes_a_placeholder(small: Layout, params: Params) -> None:
    for path in small.images("bolt").glob("*.png"):
        path.write_bytes(b"not an image")
    assert "image not on disk" in page_of(small, params)


def test_a_test_set_without_defects_has_no_roc_and_no_crash(small: Layout, params: Params) -> None:
    path = small.evaluation("bolt") / "scores.parquet"
    scores = pd.read_parquet(path)
    scores["label"] = "normal"
    scores.to_parquet(path)
    page = page_of(small, params)
    assert "Histogram of the scores" in page
    assert "ROC curve of" not in page


# --- the gallery


def test_mistakes_are_shown_gravest_first_and_at_most_six(layout: Layout) -> None:
    contents = read_contents(layout).classes[0]
    misses, alarms, found, passed = gallery(contents, layout.root, LIMITS, limit=MAX_PER_KIND, coverage=1.0)
    assert (misses.total, alarms.total) == (contents.metrics.decisions.misses, contents.metrics.decisions.false_alarms)
    scores = contents.scores
    of_misses = scores.query("label == 'anomalous' and decision == 'normal'")["score"].sort_values()
    assert [shot.score for shot in misses.shots] == pytest.approx(of_misses.head(6).tolist())
    assert [shot.score for shot in alarms.shots] == sorted((shot.score for shot in alarms.shots), reverse=True)
    spread = [shot.score for shot in found.shots]
    of_found = scores.query("label == 'anomalous' and decision == 'anomalous'")["score"]
    assert (max(spread), min(spread)) == (of_found.max(), of_found.min())
    assert len(passed.shots) == 6


def test_thumbnails_are_small_and_the_overlay_has_the_image_s_size(layout: Layout) -> None:
    contents = read_contents(layout).classes[-1]
    shot = gallery(contents, layout.root, LIMITS, limit=1, coverage=1.0)[2].shots[0]
    image, overlay = (
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in (shot.image, shot.overlay)
    )
    assert image.size == overlay.size == (160, 160)
    colour = np.ptp(np.asarray(overlay.convert("RGB")).astype(int), axis=-1)
    assert (colour > 40).sum() > 50  # the heat map is there; the image itself is grey


def test_sixteen_bit_images_are_scaled_and_not_clipped(small: Layout) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for path in small.images("bolt").glob("*.png"):
        Image.fromarray(ramp).save(path)
    shot = gallery(read_contents(small).classes[0], small.root, LIMITS, limit=1, coverage=1.0)[3].shots[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot.image.partition(",")[2]))))
    assert 110 < pixels.mean() < 145


def test_colour_starts_above_the_patches_of_good_parts(layout: Layout) -> None:
    contents = read_contents(layout).classes[0]
    level, high = display_range(contents)
    assert contents.maps is not None
    normal = contents.maps[(contents.scores["label"] == "normal").to_numpy()]
    assert 0 < (normal > level).mean() <= 0.0051
    assert high > level


def test_many_classes_get_fewer_images_each() -> None:
    assert [shots_per_kind(n) for n in (1, 3, 10)] == [6, 6, 6]
    assert shots_per_kind(30) < 6
    assert shots_per_kind(500) == 1


def test_even_images_of_pure_noise_stay_small(small: Layout) -> None:
    rng = np.random.default_rng(0)
    for path in small.images("bolt").glob("*.png"):
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(path)
    groups = gallery(read_contents(small).classes[0], small.root, LIMITS, limit=2, coverage=1.0)
    sizes = [len(shot.image) + len(shot.overlay) for group in groups for shot in group.shots]
    assert sizes
    assert max(sizes) <= BYTES_PER_SHOT + 60


# --- words and charts


def test_numbers_are_written_as_people_read_them() -> None:
    assert number(None) == "–"
    assert number(-0.0123, 3) == "−0.012"
    assert percent(0.05) == "5\u202f%"
    assert percent(0.0375) == "3.8\u202f%"
    assert percent(0.5, 0) == "50\u202f%"
    assert percent(0.1, 0) == "10\u202f%"
    assert unit(1024, "MB") == "1\u202f024\u202fMB"
    assert duration(212.4) == "3.5\u202fmin"
    assert duration(12.0) == "12.0\u202fs"
    assert [join_words(names) for names in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_a_rate_that_cannot_be_promised_is_named_beside_the_one_that_is(small: Layout) -> None:
    metrics = read_contents(small).classes[0].metrics
    decisions = replace(metrics.decisions, target_fpr=0.05, promised_fpr=0.0625)
    text = promise(metrics.model_copy(update={"decisions": decisions}), 0.95)
    assert "at most 6.2\u202f% false alarms (5\u202f% was asked for, and takes more calibrating images). Seen" in text
    assert "was asked for" not in promise(metrics, 0.95)


def test_a_broken_promise_is_called_one(small: Layout) -> None:
    assert "The promise holds" in promise(read_contents(small).classes[0].metrics, 0.95)
    path = small.evaluation("bolt") / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["decisions"] |= {"false_alarms": 20, "fpr": 20 / 60}
    write_json(path, metrics)
    assert "Chance alone hardly explains" in promise(read_contents(small).classes[0].metrics, 0.95)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 160), (-3.2, 17.9), (0.95, 1.0), (0, 2e-3), (2, 2)])
def test_ticks_are_round_and_within_the_axis(low: float, high: float) -> None:
    ticks = Axis(low, high).ticks()
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0]) if steps.size else low == high


def test_a_chart_escapes_its_words_and_keeps_marks_inside() -> None:
    plot = Plot("<b>", x=Axis(0, 1, "<i>"), y=Axis(0, 1))
    plot.line([(0, 0), (0.5, 7.0)], "c-fused")
    markup = plot.render()
    assert "<b>" not in markup
    assert "<i>" not in markup
    assert plot.py(7.0) == plot.py(1.0)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("block", re.findall(r":root \{(.*?)\}", CSS, re.S), ids=["light", "dark", "print"])
def test_text_has_a_contrast_of_at_least_4_5(block: str) -> None:
    """WCAG 2 contrast ratio of every text colour on every ground that it stands on."""
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    pairs = [(text, ground) for text in ("ink", "muted", "link") for ground in ("paper", "card")]
    pairs += [(text, ground) for text in ("ink", "muted") for ground in ("good-tint", "bad-tint")]
    pairs += [(f"{side}", ground) for side in ("good", "bad") for ground in (f"{side}-tint", "paper", "card")]
    for text, ground in pairs:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_every_bank_is_shown_with_its_size_before_and_after_compression(layout: Layout, params: Params) -> None:
    page = page_of(layout, params)
    section = page[page.index('id="costs"') : page.index('id="data"')]
    assert section.count("float16") == section.count(">300<") == len(HARDNESS)
    assert len(re.findall(r">1.?183<", section)) == len(HARDNESS)
