"""The record of a decision: a real gateway decides, real models are registered, and the part comes out the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from fixtures.gateway import Factory, Site, build_models, decoded, image_id, png, wait_for
from fixtures.tiny_project import CLASSES, Project, rewrite
from shadowline.core.params import load_params
from shadowline.data.labels import Label
from shadowline.evaluation.gates import Verdict, check_at_least
from shadowline.evaluation.summary import Summary
from shadowline.models.legacy_validation import DeclaredMetrics, validate_legacy_model
from shadowline.models.loader import find_model, load_detector
from shadowline.records.audit_log.entry import Entry, EntryKind, Record, digest_of, is_signed
from shadowline.records.tables import PairRow
from shadowline.rollout.phases import Phase

Command = Callable[..., tuple[int, str, str]]
COMMIT = "c0ffee" * 6
ALONE = png("stripes", 7)  # inspected when the legacy model judged alone


@dataclass
class Registered(Factory):
    """A factory whose models are versions of a registry."""

    def location(self, role: str, name: str) -> Path:
        return Path("models:/inspector/1" if role == "candidate" else f"models:/legacy-{name}/1")


@dataclass(frozen=True)
class Plant:
    """A running gateway, and the project that it works in."""

    factory: Registered
    site: Site
    command: Command

    @property
    def root(self) -> Path:
        return self.factory.root

    def inspect(self, name: str, data: bytes, trace_id: str) -> dict[str, Any]:
        """The gateway's answer, once its pair is on record."""
        answer: dict[str, Any] = self.site.post(data, {"X-Trace-Id": trace_id}, class_name=name).json()
        self.wait_for(name, answer["trace_id"])
        return answer

    def wait_for(self, name: str, trace_id: str) -> None:
        wait_for(lambda: trace_id in set(self.factory.pairs(name)["trace_id"]))

    def flagged(self, name: str, trace_id: str, answered_by: str = "") -> tuple[bytes, dict[str, Any]]:
        """A part that the gateway stopped, and its answer; its image is kept."""
        for number in range(100, 160):
            data = png(name, number, hole=True)
            found = self.site.inspect(name, data)
            if found["decision"] == "anomalous" and found["answered_by"] in (answered_by or found["answered_by"]):
                answer = self.inspect(name, data, trace_id)
                wait_for(lambda: trace_id in set(self.factory.pairs(name)["trace_id"]))
                self.wait_for_retention()
                assert self.kept(name, data).is_file()
                return data, answer
        raise AssertionError("no part is stopped")

    def wait_for_retention(self) -> None:
        """All images that the gateway has chosen to keep are written."""
        keeper = self.site.gateway._keeper
        wait_for(lambda: keeper._num_waiting == 0)

    def kept(self, name: str, data: bytes) -> Path:
        return self.root / f"data/inspected/{name}/{image_id(data)}.png"

    def tamper(self, trace_id: str, **values: Any) -> None:
        with self.factory.records.pairs.engine.begin() as connection:
            connection.execute(update(PairRow).where(PairRow.trace_id == trace_id).values(**values))

    def draw(self, trace_id: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code, and what --json says."""
        code, out, err = self.command("audit", "decision", trace_id, "--json", *options)
        assert out, err
        return code, json.loads(out)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registered, Site]]:
    """Both models of each class registered; dots in CANARY, stripes in SHADOW, before one gateway."""
    from tasks.integrations.audit_log import WITNESS_TAG
    from tasks.integrations.mlflow_registry import client

    project = build_models(tmp_path_factory.mktemp("decision") / "project")
    with project.inside(), pytest.MonkeyPatch.context() as patch:
        for name, value in _environment(project).items():
            patch.setenv(name, value)
        _register(project)
        factory = Registered.begin(project, project.root)
        record = Record(EntryKind.REGISTRATION, "models:/inspector/1", {}, "Ada", datetime.now(UTC))
        entry = factory.records.chain.append(record)[-1]
        client().set_model_version_tag("inspector", "1", WITNESS_TAG, f"{entry.number}:{entry.hash}")
        factory.move(dots=Phase.CANARY)
        with factory.serve() as site:
            site.post(ALONE, {"X-Trace-Id": "line-7.0001"}, class_name="stripes")
            factory.move(stripes=Phase.SHADOW)
            wait_for(lambda: site.client.get("/v1/rollout").json()["revision"] == factory.records.rollout.revision())
            yield factory, site


@pytest.fixture
def plant(running: tuple[Registered, Site], command: Command, monkeypatch: pytest.MonkeyPatch) -> Plant:
    factory, site = running
    for name, value in _environment(factory.models).items():
        monkeypatch.setenv(name, value)
    return Plant(factory, site, command)


def _environment(project: Project) -> dict[str, str]:
    database, keys = project.root / "database/records.db", project.root / "audit-keys"
    return {"SHADOWLINE_DATABASE_URL": f"sqlite:///{database}", "SHADOWLINE_AUDIT_KEYS": str(keys)}


def _register(project: Project) -> None:
    from tasks.integrations.git import Provenance
    from tasks.integrations.mlflow_registry import register, start_run
    from tasks.rollout.legacy_models import note_legacy, register_legacy

    params, now = load_params(project.layout.params), datetime.now(UTC)
    for name in CLASSES:
        model = validate_legacy_model(name, str(project.layout.legacy(name)), params, project.layout, DeclaredMetrics())
        note_legacy.fn(register_legacy.fn(model, "tiny"), model, now)
    verdict = Verdict.of([check_at_least("classes", len(CLASSES), 1)])
    summary = Summary(
        verdict=verdict, classes=CLASSES, means={}, memory=None, latency_ms={}, latency_measurement={}, num_images={}
    )
    register.fn(start_run.fn("tiny", {}), params, project.layout, summary, Provenance(COMMIT, "0" * 64))


# --- it comes out the same ------------------------------------------------------------------------------------------


def test_a_stopped_part_is_shown_again_bit_for_bit(plant: Plant) -> None:
    data, answer = plant.flagged("dots", "line-7.0042", "candidate")
    code, found = plant.draw("line-7.0042")
    record, said = found["record"], found["record"]["decision"]
    assert code == 0
    assert record["rerun"]["outcome"] == "identical"
    assert (said["score"], said["threshold"]) == (answer["score"], answer["threshold"])
    assert (said["decision"], said["side"]) == ("anomalous", "candidate")
    assert said["fingerprint"] == answer["model_fingerprint"]
    assert record["part"]["number"] == record["part"]["trace_id"] == "line-7.0042"
    assert record["part"]["image_id"] == image_id(data)
    assert (record["model"]["name"], record["model"]["version"]) == ("inspector", "1")
    assert (record["model"]["source"], record["model"]["git_commit"]) == ("registry", COMMIT)
    assert record["model"]["params_hash"] == load_params(plant.factory.models.layout.params).hash()
    assert record["calibration"]["problems"] == []
    assert record["calibration"]["target_fpr"] == 0.2
    assert record["rollout"]["phase"] == "canary"
    assert record["other"]["side"] == "legacy"
    assert record["other"]["score"] == plant.factory.detector("legacy", "dots").score([decoded(data)])[0]


def test_a_part_that_the_legacy_model_judged_alone_is_shown_again_as_well(plant: Plant) -> None:
    wait_for(lambda: "line-7.0001" in set(plant.factory.judged_alone("stripes")["trace_id"]))
    path = plant.root / "alone.png"
    path.write_bytes(ALONE)
    code, found = plant.draw("line-7.0001", "--image", str(path))
    record = found["record"]
    assert (code, record["rerun"]["outcome"], record["calibration"]["problems"]) == (0, "identical", [])
    assert (record["decision"]["side"], record["rollout"]["phase"], record["other"]) == ("legacy", "legacy", None)
    assert record["decision"]["score"] == plant.factory.detector("legacy", "stripes").score([decoded(ALONE)])[0]
    assert "in phase legacy it decides on every part" in record["rule"][0]


def test_the_hashes_on_record_are_those_of_the_models_files_and_of_its_map(plant: Plant) -> None:
    data, _ = plant.flagged("dots", "hashes", "candidate")
    _, found = plant.draw("hashes")
    detector, package = plant.factory.detector("candidate", "dots"), plant.factory.models.layout.package
    values = np.ascontiguousarray(detector.maps([decoded(data)])[0], "<f8").tobytes()
    model = found["record"]["model"]
    assert found["record"]["rerun"]["heatmap"]["sha256"] == hashlib.sha256(values).hexdigest()
    assert model["bank"] == hashlib.sha256((package / "banks/dots.safetensors").read_bytes()).hexdigest()
    assert model["decoder"] == hashlib.sha256((package / "decoder.safetensors").read_bytes()).hexdigest()
    with Image.open(Path(found["folder"]) / "heatmap.png") as picture:
        assert picture.size == decoded(data).size


def test_the_signature_vouches_for_the_record_and_the_chain_is_sound(plant: Plant) -> None:
    plant.flagged("dots", "signed")
    _, found = plant.draw("signed")
    written = json.loads((Path(found["folder"]) / "record.json").read_text(encoding="utf-8"))
    entry = Entry(**written["entry"])
    bytes_of_record = json.dumps(written["record"], sort_keys=True, separators=(",", ":")).encode()
    assert entry.facts["record_sha256"] == hashlib.sha256(bytes_of_record).hexdigest() == written["record_sha256"]
    signed = (entry.number, entry.at, entry.by, entry.kind, entry.subject, entry.body, entry.previous, entry.key)
    assert entry.hash == digest_of(*signed).hex()
    public = (plant.root / f"audit-keys/{entry.key}.pub").read_text(encoding="ascii").strip()
    assert written["public_key"] == public and is_signed(entry, public)
    code, out, _ = plant.command("audit", "verify", "--json")
    assert code == 0, out


def test_the_record_cites_the_registration_and_the_phase_in_force(plant: Plant) -> None:
    plant.flagged("dots", "cited", "candidate")
    _, found = plant.draw("cited")
    entries = {entry.number: entry for entry in plant.factory.records.chain.entries()}
    registration, phase = (entries[found["record"][name]["number"]] for name in ("registration", "phase"))
    assert (registration.kind, registration.subject) == (EntryKind.REGISTRATION, "models:/inspector/1")
    assert (phase.kind, phase.subject, phase.facts["to"]) == (EntryKind.PHASE, "dots", "canary")
    assert phase.signature == found["record"]["phase"]["signature"]


def test_parts_that_were_scored_together_come_out_the_same_alone(plant: Plant) -> None:
    images = [png("dots", number) for number in range(8)]
    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(lambda n: plant.site.post(images[n], {"X-Trace-Id": f"b-{n}"}, class_name="dots"), range(8)))
    for number in range(8):
        plant.wait_for("dots", f"b-{number}")
    path = plant.root / "one.png"
    for number in (0, 7):
        path.write_bytes(images[number])
        code, found = plant.draw(f"b-{number}", "--image", str(path))
        assert (code, found["record"]["rerun"]["outcome"] in {"identical", "rounding"}) == (0, True)


def test_the_inspectors_word_and_a_part_number_are_in_the_record(plant: Plant) -> None:
    data, _ = plant.flagged("stripes", "spoken")
    for label, by in ((Label.NORMAL, "Ada"), (Label.ANOMALOUS, "Grace")):
        plant.factory.records.pairs.label("stripes", image_id(data), label, by, datetime.now(UTC), "a <scratch>")
    _, found = plant.draw("spoken", "--part", "PV-417")
    feedback = found["record"]["feedback"]
    assert (feedback["label"], feedback["by"], feedback["num_superseded"]) == ("anomalous", "Grace", 1)
    assert found["record"]["part"]["number"] == "PV-417"


def test_a_trace_id_that_no_caller_chose_is_no_part_number(plant: Plant) -> None:
    data, _ = plant.flagged("stripes", "chosen")
    found = plant.site.inspect("stripes", data)
    plant.wait_for("stripes", found["trace_id"])
    _, drawn = plant.draw(found["trace_id"])
    assert drawn["record"]["part"]["number"] == ""


# --- what was tampered with is named ---------------------------------------------------------------------------------


def test_a_changed_score_is_found(plant: Plant) -> None:
    _, answer = plant.flagged("stripes", "score")
    plant.tamper("score", legacy_score=answer["score"] + 0.001)
    code, found = plant.draw("score")
    assert (code, found["record"]["rerun"]["outcome"]) == (1, "different")
    assert repr(answer["score"]) in found["record"]["rerun"]["reason"]


def test_a_changed_threshold_is_found(plant: Plant) -> None:
    _, answer = plant.flagged("dots", "threshold", "candidate")
    plant.tamper("threshold", candidate_threshold=answer["threshold"] - 0.5)
    code, found = plant.draw("threshold")
    assert (code, found["record"]["rerun"]["outcome"]) == (1, "different")
    assert "threshold on record" in found["record"]["calibration"]["problems"][0]


def test_a_changed_decision_is_found(plant: Plant) -> None:
    plant.flagged("stripes", "decision")
    plant.tamper("decision", legacy_alarm=False)
    code, found = plant.draw("decision")
    assert (code, found["record"]["rerun"]["outcome"]) == (1, "identical")
    assert "does not follow" in found["record"]["calibration"]["problems"][0]


def test_another_model_on_record_is_found(plant: Plant) -> None:
    plant.flagged("stripes", "model")
    plant.tamper("model", legacy=plant.factory.state("dots").legacy)
    code, found = plant.draw("model")
    assert code == 1
    problems = " ".join(found["record"]["calibration"]["problems"])
    assert "key does not fit" in problems and "in force" in problems and "cannot be loaded" in problems


def test_a_model_whose_files_changed_does_not_decide_again(plant: Plant) -> None:
    plant.flagged("dots", "files", "candidate")
    bank = find_model("models:/inspector/1")[0] / "banks/dots.safetensors"
    kept = bank.read_bytes()
    try:
        rewrite(bank, kept[:-4] + b"\x00\x00\x80\x3f")
        code, found = plant.draw("files")
    finally:
        rewrite(bank, kept)
    assert (code, found["record"]["rerun"]["outcome"]) == (1, "impossible")
    assert "changed since packaging" in found["record"]["rerun"]["reason"]
    assert not (Path(found["folder"]) / "heatmap.png").exists()


def test_another_image_does_not_pass_for_the_one_that_was_inspected(plant: Plant) -> None:
    data, _ = plant.flagged("stripes", "image")
    kept = plant.kept("stripes", data)
    kept.write_bytes(png("stripes", 1))
    code, _, err = plant.command("audit", "decision", "image")
    assert code == 2 and f"{kept}"[-40:] in err and "another image by now" in err
    kept.write_bytes(data)
    assert plant.draw("image")[0] == 0


# --- what is not there ------------------------------------------------------------------------------------------------


def test_an_image_that_is_nowhere_is_asked_for_and_may_be_given(plant: Plant, tmp_path: Path) -> None:
    data, _ = plant.flagged("stripes", "nowhere")
    plant.kept("stripes", data).unlink()
    code, _, err = plant.command("audit", "decision", "nowhere")
    assert code == 2 and "--image" in err
    (tmp_path / "found.png").write_bytes(data)
    assert plant.draw("nowhere", "--image", str(tmp_path / "found.png"))[0] == 0
    code, found = plant.draw("nowhere", "--no-rerun")
    assert (code, found["record"]["rerun"]["outcome"]) == (0, "not_asked")


@pytest.mark.parametrize("place", ["data/images/stripes", "data/inbox/stripes/train/good", "elsewhere"])
def test_the_image_is_found_wherever_the_project_keeps_it(plant: Plant, place: str) -> None:
    data, _ = plant.flagged("stripes", f"at-{place[-4:]}")
    target = plant.root / place / plant.kept("stripes", data).name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(plant.kept("stripes", data), target)
    if place == "elsewhere":
        plant.tamper(f"at-{place[-4:]}", image_path=str(target))
    assert plant.draw(f"at-{place[-4:]}")[0] == 0
    target.unlink()


def test_an_unknown_trace_id_is_refused(plant: Plant) -> None:
    code, _, err = plant.command("audit", "decision", "never-seen")
    assert code == 2 and "'never-seen'" in err and err.count("\n") == 1


def test_of_several_pairs_with_one_trace_id_the_class_chooses(plant: Plant) -> None:
    for name in CLASSES:
        plant.flagged(name, "twice")
    code, _, err = plant.command("audit", "decision", "twice")
    assert code == 2 and "--class" in err and all(name in err for name in CLASSES)
    folders = {plant.draw("twice", "--class", name)[1]["folder"] for name in CLASSES}
    assert len(folders) == 2


def test_a_trace_id_that_leads_out_of_the_folder_stays_in_it(plant: Plant, tmp_path: Path) -> None:
    plant.flagged("stripes", "..")
    code, found = plant.draw("..", "--out", str(tmp_path / "records"))
    assert code == 0
    assert Path(found["folder"]).resolve().parent == (tmp_path / "records").resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"records"}


# --- a legacy model that is gone --------------------------------------------------------------------------------------


def test_a_deleted_legacy_model_decides_again_from_its_archive(plant: Plant) -> None:
    from tasks.rollout.legacy_models import archive_legacy, delete_legacy, prove_archive

    fingerprint = plant.factory.state("stripes").legacy
    plant.flagged("stripes", "old")
    archive_legacy("stripes", fingerprint)
    prove_archive("stripes", fingerprint, plant.root)
    assert delete_legacy("stripes", fingerprint) == 1
    code, found = plant.draw("old")
    assert (code, found["record"]["rerun"]["outcome"]) == (0, "identical")
    assert (found["record"]["model"]["source"], found["record"]["decision"]["side"]) == ("archive", "legacy")


# --- the page, in a real browser --------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_page_prints_on_two_sides_of_a4_and_asks_for_nothing(plant: Plant, tmp_path: Path) -> None:
    names = (os.environ.get("SHADOWLINE_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if name and (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH; install one or set SHADOWLINE_CHROMIUM")
    plant.flagged("dots", "printed", "candidate")
    page = Path(plant.draw("printed")[1]["folder"]).resolve() / "page.html"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr")
    target = tmp_path / "page.pdf"
    printing = (f"--print-to-pdf={target}", "--no-pdf-header-footer")
    done = subprocess.run([browser, *flags, *printing, page.as_uri()], capture_output=True, text=True, timeout=120)
    pdf = target.read_bytes()
    assert pdf.count(b"/Type /Page\n") == 2
    assert b"594.9" in pdf and b"841.9" in pdf  # A4 in points
    assert ":CONSOLE" not in done.stderr


def test_keeping_follows_the_parameter(plant: Plant) -> None:
    """Of alarms, those of the model in the shadow among them."""
    given = {
        image_id(data): data for data in (png("dots", number, hole=bool(number % 2)) for number in range(200, 216))
    }
    for data in given.values():
        plant.site.inspect("dots", data)
    wait_for(lambda: given.keys() <= set(plant.factory.pairs("dots")["image_id"]))
    plant.wait_for_retention()
    pairs = plant.factory.pairs("dots")
    of_given = pairs[pairs["image_id"].isin(given)]
    reasons = of_given[["candidate_alarm", "legacy_alarm", "review_drawn"]].astype(bool).any(axis=1)
    flagged = set(of_given.loc[reasons, "image_id"])
    folder = plant.root / "data/inspected/dots"
    assert flagged and flagged < given.keys()
    assert {path.stem for path in folder.glob("*.png")} & given.keys() == flagged
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.png")} == {0o600}
    assert load_detector("models:/inspector/1", "dots").fingerprint == plant.factory.state("dots").candidate
