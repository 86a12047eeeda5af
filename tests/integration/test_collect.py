"""What the gateway kept and inspectors labelled reaches the next retraining: real files, database and import."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from prefect.logging import disable_run_logger

from fixtures.learning import ROOT
from fixtures.records import made_pair
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.data.manifest import content_id, read_manifest
from shadowline.gateway.image_retention import RetainedImages
from shadowline.records.stores import Records, open_records
from shadowline.stages import import_class
from tasks.training.production_images import DEFECT_TYPE, Collected, take_in

NOW = datetime(2026, 7, 1, 6, tzinfo=UTC)


def png(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Plant:
    """A project with the classes bolt and nut, imported once, and what its gateway did."""

    layout: Layout
    records: Records

    def inspected(self, seed: int, *words: tuple[str, Label], class_name: str = "bolt", day: int = 0) -> str:
        """The gateway has inspected and kept an image, and inspectors spoke of it, one an hour; its id."""
        data = png(seed)
        image_id = content_id(data)
        self.records.pairs.record(
            [made_pair(seed, class_name=class_name, image_id=image_id, captured_at=NOW + timedelta(days=day))]
        )
        RetainedImages(self.layout.inspected, 10**9).keep(class_name, image_id, data)
        for hour, (by, label) in enumerate(words, start=1):
            self.records.pairs.label(class_name, image_id, label, by, NOW + timedelta(days=day, hours=hour))
        return image_id

    def take_in(self) -> dict[str, Collected]:
        with disable_run_logger():
            return {
                collected.class_name: collected for collected in take_in.fn(self.layout.root, self.records.pairs.engine)
            }

    def imported(self, class_name: str = "bolt") -> pd.DataFrame:
        import_class.run(class_name, load_params(self.layout.params), self.layout, Progress())
        return read_manifest([self.layout.manifest(class_name)]).set_index("image_id")


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"] = {name: {"source": "folder", "location": "factory"} for name in ("bolt", "nut")}
    raw["train"]["classes"] = ["bolt"]
    raw["data"].update({"injected_test": 0, "min_val": 0, "max_train": 20, "max_test_anomalous": 3, "max_tune": 2})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    for first, name in ((0, "bolt"), (1000, "nut")):
        folder = tmp_path / f"factory/{name}/train/good"
        folder.mkdir(parents=True)
        for seed in range(first, first + 25):
            (folder / f"{seed}.png").write_bytes(png(seed))
    monkeypatch.chdir(tmp_path)
    logging.getLogger("prefect").setLevel(logging.ERROR)
    plant = Plant(Layout(tmp_path), open_records(f"sqlite:///{tmp_path}/records.db"))
    for name in ("bolt", "nut"):
        plant.imported(name)
    yield plant


def test_labelled_images_train_or_are_known_defects_with_who_and_when(plant: Plant) -> None:
    before = plant.imported()
    normal = plant.inspected(100, ("Ada", Label.NORMAL))
    defects = [plant.inspected(seed, ("Bo", Label.ANOMALOUS)) for seed in range(101, 105)]
    plant.inspected(110)  # nobody has spoken of it
    collected = plant.take_in()
    assert (collected["bolt"].num_normal, collected["bolt"].num_anomalous) == (1, 4)
    assert not collected["nut"].index
    after = plant.imported()
    assert set(after.index) - set(before.index) == {normal, *defects}
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    row = after.loc[normal]
    assert (row["split"], row["label"], row["bank_only"]) == ("train", "normal", False)
    assert row["source"].endswith("normal by Ada at 2026-07-01T07:00:00+00:00")
    assert row["captured_at"] == pd.Timestamp(NOW)
    assert set(after.loc[defects, "split"]) <= {"tune", "test", "stream"}
    assert set(after.loc[defects, "defect_type"]) == {DEFECT_TYPE}
    entry = load_params(plant.layout.params).classes["bolt"].additions
    assert [(addition.index, addition.trained) for addition in entry] == [(collected["bolt"].index, True)]


def test_again_nothing_comes_twice_and_the_parameters_stay_as_they_are(plant: Plant) -> None:
    plant.inspected(100, ("Ada", Label.NORMAL))
    plant.take_in()
    text = plant.layout.params.read_text(encoding="utf-8")
    assert not plant.take_in()["bolt"].index  # before the import has run
    plant.imported()
    assert not plant.take_in()["bolt"].index
    assert plant.layout.params.read_text(encoding="utf-8") == text


def test_nobody_learns_from_a_disputed_image_and_a_changed_label_is_reported(plant: Plant) -> None:
    disputed = plant.inspected(100, ("Ada", Label.NORMAL), ("Bo", Label.ANOMALOUS))
    changed = plant.inspected(101, ("Ada", Label.ANOMALOUS), ("Ada", Label.NORMAL))
    found = plant.take_in()["bolt"]
    assert (found.num_normal, found.num_anomalous, found.disputed, found.changed) == (1, 0, (disputed,), (changed,))
    assert "changed from another label" in plant.imported().loc[changed, "source"]
    plant.records.pairs.label("bolt", changed, Label.ANOMALOUS, "Ada", NOW + timedelta(days=3))
    (line,) = plant.take_in()["bolt"].refused
    assert line.startswith(f"{changed}: in the class as normal, now anomalous by Ada")


def test_an_image_that_any_class_holds_does_not_come_in(plant: Plant) -> None:
    plant.inspected(3, ("Ada", Label.NORMAL))
    plant.inspected(1003, ("Ada", Label.NORMAL))
    found = plant.take_in()["bolt"]
    assert (found.index, found.num_normal) == ("", 0)


def test_of_more_than_may_train_the_newest_come_in(plant: Plant) -> None:
    images = [plant.inspected(200 + day, ("Ada", Label.NORMAL), day=day) for day in range(30)]
    found = plant.take_in()["bolt"]
    assert (found.num_normal, found.num_left) == (20, 10)
    assert set(images[-10:]) <= set(plant.imported().index)


def test_images_of_a_bank_update_train_from_now_on(plant: Plant) -> None:
    from shadowline.core.params_file import editing
    from shadowline.data.additions import Additions, Offer

    additions = Additions(plant.layout.additions, "bolt")
    offer = Offer("new.png", "good", lambda limit: png(300)[:limit], "new.png")
    index = additions.write(additions.keep([offer], {}, load_params(plant.layout.params).data, NOW).new)
    with editing(plant.layout.params) as content:
        content["classes"]["bolt"]["additions"] = [{"index": index}]
    assert plant.imported().loc[content_id(png(300)), "bank_only"]
    plant.take_in()
    assert not plant.imported()["bank_only"].any()


def test_a_version_is_made_again_with_exactly_the_images_that_its_parameters_name(plant: Plant) -> None:
    from tasks.audit.reproduction import Checkout, additions_gone
    from tasks.integrations.registered_version import Registered

    image_id = plant.inspected(100, ("Ada", Label.NORMAL))
    plant.take_in()
    registered = cast(Registered, None)  # the additions are found by the parameters alone
    places = []
    for name in ("again", "later"):
        clone = plant.layout.root / name
        clone.mkdir()
        shutil.copy(plant.layout.params, clone)
        places.append(Checkout(clone, plant.layout.root, registered, clone, ()))
    again, later = places
    assert additions_gone(again) == {}
    assert (again.layout.additions / f"bolt/images/{image_id}.png").read_bytes() == png(100)
    (plant.layout.additions / f"bolt/images/{image_id}.png").unlink()
    ((step, reason),) = additions_gone(later).items()
    assert step == "import@bolt" and reason.startswith("source not at hand: class 'bolt'")
