"""The report in a real browser: that it draws, in both widths and colour schemes, and asks for nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures.learning import ROOT
from fixtures.migration import pair_of, tell
from fixtures.report import HARDNESS, write_inputs
from shadowline.core.params import load_params
from shadowline.core.progress import Progress
from shadowline.data.manifest import content_id
from shadowline.records.stores import open_records
from shadowline.records.timeline import collect_timeline, write_timeline
from shadowline.report import build_report
from shadowline.report.disagreements import build_gallery
from shadowline.rollout.phases import Phase

pytestmark = pytest.mark.browser

PARAMS = ROOT / "params.yaml"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0"),
)


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium, from $SHADOWLINE_CHROMIUM or the PATH."""
    names = (os.environ.get("SHADOWLINE_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH; install one or set SHADOWLINE_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = write_inputs(tmp_path_factory.mktemp("browser"))
    return build_report(layout, load_params(PARAMS))


@pytest.fixture(scope="module")
def migration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of which only the section on a whole migration is left."""
    layout, params = write_inputs(tmp_path_factory.mktemp("migration")), load_params(PARAMS)
    records = open_records(f"sqlite:///{layout.root / 'records.db'}")
    tell(records, params)
    write_timeline(collect_timeline(records, params), layout.timeline)
    page = build_report(layout, params).read_text(encoding="utf-8")
    section = re.search(r'<section id="migration">.*?</section>', page, re.DOTALL)
    assert section is not None
    target = layout.root / "migration.html"
    target.write_text(
        f"{page[: page.index('<nav')]}<nav></nav><main>{section[0]}</main></body></html>", encoding="utf-8"
    )
    return target


@pytest.fixture(scope="module")
def disagreements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of a class whose images are there and whose models are not."""
    folder, params = tmp_path_factory.mktemp("disagreements"), load_params(PARAMS)
    records = open_records(f"sqlite:///{folder / 'records.db'}")
    tell(records, params)
    one = records.rollout.state().of("bolt")
    for number in range(4):
        path = folder / f"{number}.png"
        Image.effect_noise((200, 150), 60 + number).convert("RGB").save(path)
        pair = pair_of(replace(one, phase=Phase.SHADOW), content_id(path.read_bytes()), one.since, True, False)
        records.pairs.record([replace(pair, image_path=str(path))])
    return build_gallery(one, records, params, folder, 6, Progress())


def run_browser(browser: str, page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def screenshot(browser: str, page: Path, folder: Path, width: int, height: int, *options: str) -> np.ndarray:
    target = folder / "page.png"
    size = f"--window-size={width},{height}"
    run_browser(browser, page, folder / "profile", f"--screenshot={target}", size, *options)
    return np.asarray(Image.open(target).convert("RGB")).astype(int)


def num_colours(pixels_HWC: np.ndarray) -> int:
    return len(np.unique((pixels_HWC // 16).reshape(-1, 3), axis=0))


@pytest.mark.parametrize("width", [1280, 420])
def test_hero_and_gallery_are_drawn(browser: str, report: Path, tmp_path: Path, width: int) -> None:
    pixels = screenshot(browser, report, tmp_path, width, 4000)
    hero, below = pixels[:700], pixels[2000:]
    assert pixels.shape == (4000, width, 3)
    assert hero.std() > 15
    assert num_colours(hero) > 20
    warm = (hero[..., 0] - hero[..., 2] > 100).sum()
    assert warm > 500  # the words "Not passed"
    assert num_colours(below) > 60  # photographs and heat maps
    flame = (below[..., 0] > 180) & (below[..., 2] < 120)
    assert flame.sum() > 200


def test_the_page_is_dark_for_readers_who_prefer_it(browser: str, report: Path, tmp_path: Path) -> None:
    light = screenshot(browser, report, tmp_path, 1000, 900)
    (tmp_path / "dark").mkdir()
    dark = screenshot(
        browser, report, tmp_path / "dark", 1000, 900, "--force-dark-mode", "--blink-settings=preferredColorScheme=0"
    )
    assert light[..., 1].mean() > 190
    assert dark[..., 1].mean() < 80


def test_the_dom_holds_the_verdict_and_every_class(browser: str, report: Path, tmp_path: Path) -> None:
    dom = run_browser(browser, report, tmp_path / "profile", "--dump-dom").stdout
    assert re.search(r"<h1>.*Not passed</h1>", dom)
    headings = re.findall(r'id="class-\d+">\s*<h2>([\w-]+)', dom)
    assert headings == list(HARDNESS)


def test_the_console_is_silent_and_nothing_is_fetched(browser: str, report: Path, tmp_path: Path) -> None:
    result = run_browser(browser, report, tmp_path / "profile", "--dump-dom")
    assert ":CONSOLE" not in result.stderr
    references = re.findall(r'(?:src|href)="([^"]*)"', report.read_text(encoding="utf-8"))
    assert references
    assert not [reference for reference in references if re.match(r"(?:https?:)?//", reference)]


def test_the_console_check_would_notice_a_fetch(browser: str, report: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.html"
    page = report.read_text(encoding="utf-8")
    spoiled.write_text(page.replace("<footer>", '<footer><img src="http://127.0.0.1:9/x.png">'), encoding="utf-8")
    result = run_browser(browser, spoiled, tmp_path / "profile", "--dump-dom")
    assert ":CONSOLE" in result.stderr
    assert "Content Security Policy" in result.stderr


def test_it_prints(browser: str, report: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    run_browser(browser, report, tmp_path / "profile", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") >= len(HARDNESS)


def near(pixels_HWC: np.ndarray, colour: str, tolerance: int = 12) -> int:
    """Number of pixels of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels_HWC - wanted).max(axis=-1) <= tolerance).sum())


@pytest.mark.parametrize("width", [1280, 420])
def test_the_migration_is_drawn_with_its_phases_and_its_rollback(
    browser: str, migration: Path, tmp_path: Path, width: int
) -> None:
    pixels = screenshot(browser, migration, tmp_path, width, 1400)
    picture = pixels[300:900]
    assert near(picture, "#a8330a") > 60  # the disc of the rollback
    assert num_colours(picture) > 30
    if width == 1280:  # a phone shows the first weeks and scrolls
        assert near(picture, "#77b6a5", 20) > 1_500  # live
        assert near(picture, "#79a9d4", 20) > 8_000  # the old model is off


def test_the_migration_is_dark_for_readers_who_prefer_it(browser: str, migration: Path, tmp_path: Path) -> None:
    dark = screenshot(
        browser, migration, tmp_path, 1280, 1400, "--force-dark-mode", "--blink-settings=preferredColorScheme=0"
    )
    assert dark.mean() < 60
    assert near(dark, "#ff9a73") > 100


def test_the_disagreements_are_drawn(browser: str, disagreements: Path, tmp_path: Path) -> None:
    pixels = screenshot(browser, disagreements, tmp_path, 1280, 1800)
    assert pixels[700:].std() > 20  # the images of noise
    dom = run_browser(browser, disagreements, tmp_path / "profile", "--dump-dom").stdout
    assert dom.count('class="card dispute"') == 6
    assert "the model cannot be loaded" in dom


def test_both_pages_are_silent_and_fetch_nothing(
    browser: str, migration: Path, disagreements: Path, tmp_path: Path
) -> None:
    for page in (migration, disagreements):
        result = run_browser(browser, page, tmp_path / page.stem, "--dump-dom")
        assert ":CONSOLE" not in result.stderr
        assert not re.findall(r'(?:src|href)="(?!data:|#)', page.read_text(encoding="utf-8"))
