"""Backup and restore with the real parts: a retrained project, its gateway, SQLite, PostgreSQL, S3, git and DVC."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from fixtures.gateway import Factory, Site, png, wait_for
from fixtures.learning import ROOT
from fixtures.planted_secrets import planted, secrets_in
from fixtures.postgres import PASSWORD, Postgres
from fixtures.s3 import s3_server
from fixtures.tiny_project import CLASSES, MODEL, Project, kill, rewrite, wait_until
from shadowline.core.params import Params, load_params
from shadowline.core.progress import Progress
from shadowline.evaluation.summary import Summary
from shadowline.gateway.image_retention import RetainedImages
from shadowline.models.legacy_validation import DeclaredMetrics, validate_legacy_model
from shadowline.models.loader import load_detector
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.keys import ChainHead
from shadowline.records.outbox import put_actions
from shadowline.records.pair import ModelDecision, Pair
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import Action, ActionKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import replay
from tasks.backup.consistency import DatabaseSnapshot, Registry, Version, disagreements
from tasks.backup.files import below, find_objects, not_kept, write_bundle
from tasks.backup.manifest import MANIFEST, BackupManifest, read_backup_manifest
from tasks.backup.restore import restore
from tasks.backup.snapshot import BackupDone, back_up
from tasks.backup.targets import newest
from tasks.integrations.webhook import WebhookError, post

Command = Callable[..., tuple[int, str, str]]
BUCKET = "backups"


@pytest.fixture(scope="module")
def lived(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with legacy models on record, a planned rollout, and a chain. Not to be changed."""
    from flows.register_legacy import register_legacy_models
    from tasks.rollout.tick import begin_rollout

    project = finished.copy(tmp_path_factory.mktemp("lived") / "project")
    with project.inside(), planted():
        params, now = load_params(project.layout.params), datetime.now(UTC)
        places = {name: str(project.layout.legacy(name)) for name in CLASSES}
        models = [
            validate_legacy_model(name, place, params, project.layout, DeclaredMetrics())
            for name, place in places.items()
        ]
        register_legacy_models(models, params.registry.experiment, now)
        begin_rollout(open_records(), [CLASSES], params, now, "Ada")
        open_records().chain.append(made_up(0))
        _fail_to_notify(open_records(), params, now)
    return project


def _fail_to_notify(records: Records, params: Params, now: datetime) -> None:
    """An error of the webhook, whose address is a secret, is on record; the notification waits for another attempt."""
    with records.rollout.engine.begin() as connection:
        put_actions(connection, [Action(ActionKind.NOTIFY, "dots", "", "moved")], 1)
    (pending,) = records.outbox.pending_actions()
    with pytest.raises(WebhookError) as caught:
        post(os.environ["SHADOWLINE_NOTIFY_URL"], {"subject": "dots", "text": "moved"})
    records.outbox.finish_action(pending.id, now, error=str(caught.value))


@pytest.fixture(scope="module")
def made(lived: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete backup. Not to be changed."""
    target = tmp_path_factory.mktemp("backups")
    with lived.inside(), planted():
        return Path(back_up(str(target), Path(), Progress()).location)


@pytest.fixture
def project(lived: Project, tmp_path: Path) -> Project:
    """A copy to be changed, its registry its own."""
    return lived.copy(tmp_path / "project")


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    """A copy of the backup, to be damaged."""
    shutil.copytree(made, tmp_path / made.name)
    return tmp_path / made.name


def test_no_secret_of_the_environment_is_in_a_retrained_project_or_in_its_backup(lived: Project, made: Path) -> None:
    assert secrets_in(lived.root) == []
    assert secrets_in(made) == []


def made_up(number: int) -> Record:
    return Record(EntryKind.APPROVAL, "dots", {"number": number}, "Ada", datetime.now(UTC))


def made_pair(records: Records, number: int) -> Pair:
    one = records.rollout.state().of("dots")
    said = ModelDecision(0.1, 0.5, 10.0)
    return Pair(
        class_name="dots",
        image_id=f"{number:064x}",
        captured_at=datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=number),
        candidate=one.candidate,
        legacy=one.legacy,
        answered_by="legacy",
        candidate_said=said,
        legacy_said=said,
    )


@contextmanager
def repeating(work: Callable[[int], None]) -> Iterator[list[int]]:
    """`work(0)`, `work(1)`, … in a thread of its own; yields the numbers that are done, and fails as the work does."""
    done: list[int] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                work(len(done))
                done.append(len(done))
        except Exception as error:  # noqa: BLE001 -- raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


def at_work(project: Project, records: Records) -> Factory:
    """The project as a factory whose rollout has begun already."""
    return Factory(project, project.root, f"sqlite:///{project.root}/data/records.db", records)


@contextmanager
def serving(plant: Factory) -> Iterator[Site]:
    """A gateway in a process of its own, when it has its models."""
    with plant.serve_process() as (site, _):
        wait_for(lambda: site.ready()[0] == 200, seconds=120)
        yield site


def pair_keys(records: Records, name: str = "dots") -> set[str]:
    one = records.rollout.state().of(name)
    return set(records.pairs.table(name, one.candidate, one.legacy)["image_id"])


# --- beside a plant at work -----------------------------------------------------------------------------------------


def test_what_was_committed_before_a_backup_comes_back_elsewhere_and_answers_alike(
    project: Project, tmp_path: Path, command: Command
) -> None:
    """While it is made the gateway answers, pairs and ticks are written, and the chain grows."""
    with project.inside():
        records = open_records()
        plant = at_work(project, records)
        plant.move(dots=Phase.SHADOW)
        with (
            serving(plant) as site,
            repeating(lambda n: (records.pairs.record([made_pair(records, n)]), None)[1]) as pairs,
            repeating(lambda n: (site.inspect("dots", png("dots", n)), None)[1]) as answers,
            repeating(lambda n: (plant.change("stripes", reason=f"tick {n}"), None)[1]) as ticks,
            repeating(lambda n: (records.chain.append(made_up(n + 1)), None)[1]) as entries,
        ):
            said = site.inspect("dots", png("dots", 4711, hole=True))
            while min(map(len, (pairs, answers, ticks, entries))) < 3:
                threading.Event().wait(0.01)
            before, num_before = pair_keys(records), len(entries)
            revision = records.rollout.revision()
            code, out, err = command("backup", str(tmp_path / "target"), "--with-downloads", "--json")
            assert len(pairs) > len(before) - 10, "writers went on"
        assert code == 0, err
    done = json.loads(out)
    assert done["problems"] == done["left_out"] == []
    project.root.rename(tmp_path / "gone")  # nothing that comes back may lie in the old place

    code, out, err = command("restore", done["location"], str(tmp_path / "again"), "--json")
    assert code == 0, err
    found, again = json.loads(out), Project(tmp_path / "again")
    assert found["stale"] == []
    assert again.stale() == set()
    assert {inspected["class_name"] for inspected in found["inspected"]} == set(CLASSES)
    assert again.git("status", "--porcelain") == ""
    assert again.git("rev-parse", "HEAD") == Project(tmp_path / "gone").git("rev-parse", "HEAD")
    with again.inside():
        restored = open_records()
        assert before <= pair_keys(restored)
        assert restored.rollout.revision() >= revision
        assert replay(restored.rollout.events()) == restored.rollout.state()
        assert restored.chain.verify(Progress()).sound
        numbers = {entry.facts["number"] for entry in restored.chain.entries(kinds=[EntryKind.APPROVAL])}
        assert set(range(num_before)) <= numbers
        last = list(restored.chain.entries())[-1]
        assert (last.kind, last.facts["what"]) == (EntryKind.BACKUP, "restored")
        assert last.facts["manifest_sha256"] == done["manifest_sha256"]
        for uri in found["registered"]:
            name = uri.split("/")[1].removeprefix("legacy-") if "legacy-" in uri else CLASSES[0]
            assert load_detector(uri, name).fingerprint
    with serving(at_work(again, restored)) as site:
        answer = site.inspect("dots", png("dots", 4711, hole=True))
    same = ("score", "threshold", "decision")
    assert {name: answer[name] for name in same} == {name: said[name] for name in same}


def test_all_that_the_audit_wrote_comes_back_byte_for_byte_whatever_its_name(project: Project, tmp_path: Path) -> None:
    """Colons come with trace ids, and what is backed up under such a name must not hinder the next backup."""
    places = ("reproductions/1-20260105T060000000000Z.json", "evidence/2026.zip", "decisions/line-7:0042/record.json")
    written = {f"data/audit/{place}": f"of {place}".encode() for place in (*places, "decisions/a\\b/record.json")}
    for place, content in written.items():
        (project.root / place).parent.mkdir(parents=True, exist_ok=True)
        (project.root / place).write_bytes(content)
    with project.inside():
        back_up(str(tmp_path / "target"), Path(), Progress())
        done = wait_for_the_next_second(lambda: back_up(str(tmp_path / "target"), Path(), Progress()))
        restore(done.location, tmp_path / "again", Progress())
    assert {place: (tmp_path / "again" / place).read_bytes() for place in written} == written


def test_a_cache_that_the_project_keeps_elsewhere_comes_back_into_the_project(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "cache", "dir", str(tmp_path / "cache"), check=True)
    project.commit("A cache of all projects")
    (project.root / ".dvc/cache").rename(tmp_path / "cache")
    with project.inside():
        done = back_up(str(tmp_path / "target"), Path(), Progress())
        (tmp_path / "cache").rename(tmp_path / "gone")
        found = restore(done.location, tmp_path / "again", Progress())
    assert (done.problems, found.problems) == ((), ())
    assert {inspected.class_name for inspected in found.inspected} == set(CLASSES)
    assert Project(tmp_path / "again").git("status", "--porcelain") == ""
    assert not (tmp_path / "cache").exists()


def test_a_backup_and_its_keys_are_for_their_owner_alone_before_and_after(
    lived: Project, made: Path, tmp_path: Path
) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (made, *made.glob("keys/*"))}
    assert modes[made] == 0o700
    assert set(modes.values()) == {0o700, 0o600}
    with lived.inside():
        restore(str(made), tmp_path / "again", Progress())
    keys = tmp_path / "again/data/audit/keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.pem")} == {0o600}


def test_a_restore_leaves_the_process_alone_while_it_runs(lived: Project, made: Path, tmp_path: Path) -> None:
    """Another thread may be at work: it must never see another folder or other settings."""
    with lived.inside(), ThreadPoolExecutor() as pool:
        before = (Path.cwd(), dict(os.environ), mlflow.get_tracking_uri())
        restoring = pool.submit(restore, str(made), tmp_path / "again", Progress())
        while not restoring.done():
            assert (Path.cwd(), dict(os.environ), mlflow.get_tracking_uri()) == before
            threading.Event().wait(0.01)
        assert {inspected.class_name for inspected in restoring.result().inspected} == set(CLASSES)


def test_a_restore_that_ends_early_says_why_in_one_line_and_shows_its_keys_to_nobody(
    made: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def copy_until_full(source: Path, target: Path) -> None:
        if "objects" in source.parts:  # after the keys
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy_until_full)
    code, _, err = command("restore", str(made), str(tmp_path / "again"), "--json")
    assert (code, err.count("\n"), "no space left on the disk" in err) == (2, 1, True), err
    keys = tmp_path / "again/data/audit/keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.pem")} == {0o600}


def test_a_target_that_is_no_folder_is_refused_in_one_line(lived: Project, tmp_path: Path, command: Command) -> None:
    (tmp_path / "target").write_text("a file", encoding="utf-8")
    with lived.inside():
        code, _, err = command("backup", str(tmp_path / "target"), "--json")
    assert (code, err.count("\n"), str(tmp_path / "target") in err) == (2, 1, True), err


def test_a_file_system_without_hard_links_takes_a_restore(
    lived: Project, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with lived.inside():
        restore(str(made), tmp_path / "again", Progress())
    cached, remote = (tmp_path / "again" / place / "files/md5" for place in (".dvc/cache", "data/remote"))
    found = {path.relative_to(remote): path for path in remote.glob("*/*")}
    assert set(found) == {path.relative_to(cached) for path in cached.glob("*/*")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.values()} == {0o444}


def test_the_second_backup_costs_what_has_changed_and_inherits_no_damage(project: Project, tmp_path: Path) -> None:
    with project.inside():
        first = back_up(str(tmp_path / "target"), Path(), Progress())
        victim = next(path for path in Path(first.location, "objects").rglob("*") if path.stat().st_size > 10_000)
        flip(victim)
        second = wait_for_the_next_second(lambda: back_up(str(tmp_path / "target"), Path(), Progress()))
    assert second.num_new_bytes < first.num_new_bytes / 2
    name = victim.relative_to(first.location)
    bank = next(name for name in read_backup_manifest(Path(second.location)).files if "/banks/" in name)
    assert Path(first.location, bank).stat().st_ino == Path(second.location, bank).stat().st_ino
    assert Path(first.location, name).stat().st_ino != Path(second.location, name).stat().st_ino
    with project.inside():
        restore(second.location, tmp_path / "again", Progress())
        with pytest.raises(ValueError, match="not what was kept"):
            restore(first.location, tmp_path / "never", Progress())


@pytest.mark.parametrize("content", ["", "null", '{"format": 2}'], ids=["empty", "nothing", "of-a-later-time"])
def test_a_damaged_manifest_of_the_last_backup_costs_its_links_and_no_backup(
    lived: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    last = tmp_path / "target/20260105T060000Z"
    last.mkdir(parents=True)
    (last / MANIFEST).write_text(content, encoding="utf-8")
    with lived.inside():
        done = back_up(str(tmp_path / "target"), Path(), Progress())
    assert f"{last / MANIFEST}: not the manifest of a backup" in caplog.text
    assert read_backup_manifest(Path(done.location)).files


def test_a_damaged_list_of_a_folder_is_named_and_a_sound_one_elsewhere_serves(project: Project, tmp_path: Path) -> None:
    name = object_name(project, "data/images/dots")
    with project.inside():
        whole = {source.name for source in find_objects(Path(), ["HEAD"]).sources}
        empty(Path(".dvc/cache/files/md5", name))
        assert {source.name for source in find_objects(Path(), ["HEAD"]).sources} == whole, "the remote has it"
        empty(Path("data/remote/files/md5", name))
        done = back_up(str(tmp_path / "target"), Path(), Progress())
    assert [name in line and "not what its name says" in line for line in done.problems] == [True]


def object_name(project: Project, output: str) -> str:
    """Of the object that DVC keeps of an output: <xx>/<…>."""
    md5 = project.outputs()[output]
    return f"{md5[:2]}/{md5[2:]}"


def empty(path: Path) -> None:
    rewrite(path, b"")


def wait_for_the_next_second(work: Callable[[], BackupDone]) -> BackupDone:
    threading.Event().wait(1.0)  # a backup is named for its second
    return work()


# --- what is refused ------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit of its middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(path, bytes(data))


def without_manifest(backup: Path) -> None:
    (backup / MANIFEST).unlink()


def leading_out(backup: Path) -> None:
    text = (backup / MANIFEST).read_text(encoding="utf-8")
    (backup / MANIFEST).write_text(text.replace('"data/audit/keys"', '"../keys"'), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda backup: flip(backup / "records.db"), "records.db: not what was kept"),
        (lambda backup: flip(backup / "repository.bundle"), "repository.bundle: not what was kept"),
        (lambda backup: (backup / "tracking.db").unlink(), "tracking.db: not there"),
        (without_manifest, "no complete backup"),
        (leading_out, "would lie outside of the project"),
        (lambda backup: (backup / MANIFEST).write_text("{}"), "not the manifest of a backup"),
        (lambda backup: shutil.rmtree(backup), "no such backup"),
    ],
    ids=["flipped", "flipped-git", "missing", "incomplete", "leads-out", "no-manifest", "nowhere"],
)
def test_a_backup_that_is_not_whole_is_refused_with_one_line_and_nothing_written(
    damaged: Path, tmp_path: Path, command: Command, damage: Callable[[Path], object], words: str
) -> None:
    damage(damaged)
    code, _, err = command("restore", str(damaged), str(tmp_path / "again"), "--json")
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert not (tmp_path / "again").exists()


def test_a_folder_with_anything_in_it_is_refused_and_left_as_it_is(
    made: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again/mine.txt").write_text("mine", encoding="utf-8")
    code, _, err = command("restore", str(made), str(tmp_path / "again"))
    assert (code, "not empty" in err) == (2, True)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["mine.txt"]


def test_a_shallow_clone_is_refused_before_its_backup_is_needed(lived: Project, tmp_path: Path) -> None:
    lived.git("clone", "--quiet", "--depth", "1", lived.root.as_uri(), str(tmp_path / "clone"))
    with pytest.raises(ValueError, match="git fetch --unshallow"):
        write_bundle(tmp_path / "clone", tmp_path / "repository.bundle")


def test_a_backup_that_no_restore_would_take_is_never_finished(
    lived: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in the project's root have no place below it."""
    with lived.inside():
        monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", ".")
        with pytest.raises(ValueError, match="no restore would take it"):
            back_up(str(tmp_path / "target"), Path(), Progress())
    assert newest(tmp_path / "target") is None


def test_a_class_that_could_not_be_tried_is_a_problem(lived: Project, damaged: Path, tmp_path: Path) -> None:
    manifest = read_backup_manifest(damaged)
    lost = f"objects/{object_name(lived, 'data/images/dots')}"
    files = {name: kept for name, kept in manifest.files.items() if name != lost}
    (damaged / MANIFEST).write_text(replace(manifest, files=files).to_text(), encoding="utf-8")
    with lived.inside():
        found = restore(str(damaged), tmp_path / "again", Progress())
    assert [inspected.class_name for inspected in found.inspected] == ["stripes"]
    assert found.problems == ("class 'dots': not tried, no image of its test split is here",)


def test_a_killed_backup_is_none_and_the_next_one_is_whole(project: Project, tmp_path: Path, command: Command) -> None:
    target = tmp_path / "target"
    process = project.start("shadowline", "backup", str(target))
    try:
        wait_until(lambda: any(target.glob("*/objects/*/*")), process)
    finally:
        kill(process)
    (broken,) = target.iterdir()
    assert not (broken / MANIFEST).exists(), "killed too late to say anything"
    with project.inside():
        done = wait_for_the_next_second(lambda: back_up(str(target), Path(), Progress()))
        code, _, err = command("restore", str(broken), str(tmp_path / "never"))
        assert (code, done.location in err) == (2, True), err
        assert restore(done.location, tmp_path / "again", Progress()).stale == stale_without_downloads(project)


def stale_without_downloads(project: Project) -> tuple[str, ...]:
    """The stages that read a download, which a backup does not hold."""
    return tuple(f"legacy@{name}" for name in sorted(CLASSES))


# --- other databases, other places ----------------------------------------------------------------------------------


def test_postgresql_goes_into_empty_databases_and_models_in_folders_move(
    project: Project, postgres: Postgres, tmp_path: Path, command: Command
) -> None:
    urls = {name: postgres.create_database() for name in ("DATABASE_URL", "TRACKING_URI")}
    with project.inside(), pytest.MonkeyPatch.context() as patch:
        use(urls, patch)
        patch.setenv("SHADOWLINE_AUDIT_KEYS", str(tmp_path / "plant/audit-keys"))  # of its database
        register_again(project)
        plant = Factory.begin(project, tmp_path / "plant", urls["DATABASE_URL"])
        plant.move(dots=Phase.SHADOW)
        with repeating(lambda n: (plant.records.pairs.record([made_pair(plant.records, n)]), None)[1]) as pairs:
            while len(pairs) < 3:
                threading.Event().wait(0.01)
            before = pair_keys(plant.records)
            done = back_up(str(tmp_path / "target"), Path(), Progress())
        assert done.problems == ()
        assert PASSWORD not in Path(done.location, MANIFEST).read_text(encoding="utf-8")
        code, _, err = command("restore", done.location, str(tmp_path / "again"))
        assert (code, "need an empty database" in err, PASSWORD in err) == (2, True, False)
        assert not (tmp_path / "again").exists()
        use({name: postgres.create_database() for name in urls}, patch)
        plant.records.pairs.engine.dispose()
        project.root.rename(tmp_path / "gone")
        patch.chdir(tmp_path)
        found = restore(done.location, tmp_path / "again", Progress())
        restored = open_records()
        assert before <= pair_keys(restored)
        assert found.registered == (f"models:/{MODEL}/1",)
        for cls in restored.rollout.state().classes:
            for fingerprint in (cls.legacy, cls.candidate):
                location = restored.locations.model(fingerprint).location
                assert location.startswith(str(tmp_path / "again"))
                assert load_detector(location, cls.class_name).fingerprint == fingerprint
        restored.pairs.engine.dispose()


def test_a_dump_of_postgresql_is_not_put_into_a_file(made: Path, damaged: Path, tmp_path: Path) -> None:
    manifest = read_backup_manifest(damaged)
    records = replace(manifest.records, kind="postgresql")
    (damaged / MANIFEST).write_text(replace(manifest, records=records).to_text(), encoding="utf-8")
    with pytest.raises(ValueError, match=r"SHADOWLINE_DATABASE_URL: records\.db is a dump of PostgreSQL"):
        restore(str(damaged), tmp_path / "again", Progress())
    assert not (tmp_path / "again").exists()


def use(urls: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    for name, url in urls.items():
        patch.setenv(f"SHADOWLINE_{name}", url)


def register_again(project: Project) -> None:
    """The project's package as the first version of an empty registry."""
    from tasks.integrations.git import Provenance
    from tasks.integrations.mlflow_registry import register, start_run

    provenance = Provenance(project.git("rev-parse", "HEAD"), "of no matter here")
    run_id = start_run.fn("shadowline", {})
    register.fn(
        run_id, load_params(Path("params.yaml")), project.layout, Summary.read(project.layout.summary), provenance
    )


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The location of an empty bucket on a server of its own."""
    with s3_server(BUCKET) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWLINE_S3_ENDPOINT", address)
        yield f"s3://{BUCKET}/plant"


def test_a_backup_in_s3_keeps_equal_files_once_and_comes_back(lived: Project, bucket: str, tmp_path: Path) -> None:
    with lived.inside():
        first = back_up(bucket, Path(), Progress())
        second = wait_for_the_next_second(lambda: back_up(bucket, Path(), Progress()))
        assert second.num_new_bytes < first.num_new_bytes / 2
        done = restore(second.location, tmp_path / "again", Progress())
        assert {inspected.class_name for inspected in done.inspected} == set(CLASSES)
        with pytest.raises(ValueError, match="no complete backup"):
            restore(f"{bucket}/20260101T000000Z", tmp_path / "never", Progress())
    assert not list(tmp_path.glob(".backup-*"))


# --- laws of the parts ----------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written(made: Path) -> None:
    manifest = read_backup_manifest(made)
    assert BackupManifest.from_text(manifest.to_text()) == manifest
    assert manifest.head is not None


def test_a_model_that_one_part_names_and_another_lacks_is_a_problem() -> None:
    location = {"1": "/old/mlruns/1"}
    version = Version("models:/inspector/1", "/old/mlruns/1/models/m-1/artifacts", "")
    standing = DatabaseSnapshot(None, {"f" * 64: "models:/inspector/1"}, frozenset({"f" * 64}))
    file = "artifacts/1/models/m-1/artifacts/MLmodel"
    assert disagreements(standing, Registry((version,), location, ""), {file}) == ()
    assert len(disagreements(standing, Registry((version,), location, ""), set())) == 2
    assert len(disagreements(standing, Registry((), location, ""), {file})) == 1
    told = Registry((version,), location, "", num_entries=8)
    assert disagreements(replace(standing, head=ChainHead(8, "")), told, {file}) == ()
    assert len(disagreements(replace(standing, head=ChainHead(7, "")), told, {file})) == 1
    far = replace(version, storage="s3://bucket/1/models/m-1/artifacts")
    assert disagreements(standing, Registry((far,), {"1": "s3://bucket/1"}, ""), set()) == ()


def test_what_is_rewritten_at_any_moment_is_left_out_and_not_missed(tmp_path: Path) -> None:
    """The gateway's counter and lock, and half an image; a counter that is not there is made anew."""
    images, data = RetainedImages(tmp_path, 1_000_000), png("dots")
    images.keep("dots", "a" * 64, data)
    (tmp_path / "dots/.half.png.tmp").write_bytes(data)
    (kept,) = below(tmp_path, "inspected")
    assert kept.name == f"inspected/dots/{'a' * 64}.png"
    restored = RetainedImages(tmp_path / "again", 1_000_000)
    shutil.copytree(kept.paths[0].parent, tmp_path / "again/dots", ignore=shutil.ignore_patterns(".*"))
    restored.keep("dots", "b" * 64, data)
    assert (tmp_path / "again/.num_bytes").read_text(encoding="ascii") == str(2 * len(data))


def test_only_outputs_that_say_so_are_not_in_the_cache() -> None:
    stages = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    found = not_kept(stages)
    assert all(found.fullmatch(path) for path in ("data/import/bolt.json", "data/cost.json"))
    assert not any(found.fullmatch(path) for path in ("data/images/bolt", "data/import/a/b.json", "data/summary.json"))
