"""A version made again: the same in a clean place, and every byte that was touched is named."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from fixtures.mlflow_store import edited_by_hand
from fixtures.postgres import Postgres
from fixtures.s3 import give_credentials, s3_server
from fixtures.tiny_project import CLASSES, EXTRA_CLASS, MODEL, Project, build_project, free_port, read_json, rewrite
from shadowline.audit.comparison import Finding, Item
from shadowline.core.hashing import file_sha256
from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.stores import open_records

Command = Callable[..., tuple[int, str, str]]

BUCKET = "plant"
_ANEW = "measured anew, not compared"
_SCALE = """\
from safetensors import safe_open
from safetensors.torch import load_file, save_file
path = "models/decoder/decoder.safetensors"
with safe_open(path, "pt") as file:
    metadata = file.metadata()
save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path, metadata)
"""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    give_credentials(monkeypatch)


@pytest.fixture(scope="module")
def audited(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The retrained project's version 1, checked out in a clean place; tests put back what they touch."""
    project = finished.copy(tmp_path_factory.mktemp("audited") / "project")
    from tasks.audit.reproduction import check_out
    from tasks.integrations.registered_version import find_registered

    with project.inside():
        folder = tmp_path_factory.mktemp("place")
        yield check_out.fn(find_registered(MODEL, "1"), project.root, folder)


def set_tag(name: str, value: str, version: str = "1") -> None:
    from tasks.integrations.mlflow_registry import client

    client().set_model_version_tag(MODEL, version, name, value)


def put_on_record(project: Project) -> None:
    """The tags of version 1 as they are now, as if it had been registered with them."""
    from tasks.integrations.audit_log import note_registration
    from tasks.integrations.mlflow_registry import client, describe_version

    note_registration.fn(describe_version(client(), MODEL, "1"), project.layout)


@contextmanager
def touched(path: Path) -> Iterator[None]:
    """One bit in the middle of a file is another one."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)
    middle = len(before) // 2
    rewrite(path, before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    try:
        yield
    finally:
        rewrite(path, before)
        path.chmod(mode)


def bad(items: Any) -> list[Item]:
    return [item for item in items if item.finding in (Finding.DIFFERENT, Finding.MISSING)]


def findings(result: dict[str, Any]) -> dict[str, set[str]]:
    """Stage → what was found of its outputs."""
    return {stage["name"]: {item["finding"] for item in stage["items"]} for stage in result["stages"]}


class TestTheSame:
    def test_it_comes_out_identical_stage_by_stage_beside_another_and_changes_nothing(
        self, prefect_server: str, project: Project
    ) -> None:
        (project.root / "data/downloads/legacy.safetensors").unlink()
        before = self.state(project)
        reproduce = ("shadowline", "audit", "reproduce", "1", "--json")
        running = [project.start(*reproduce), project.start(*reproduce, "--verify-only")]
        printed = [process.communicate(timeout=900)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], printed
        made, read = (json.loads(text.strip().splitlines()[-1]) for text in printed)
        self.every_stage_is(made)
        assert read["finding"] == "identical" and read["verify_only"]
        for result in (made, read):
            self.it_is_on_record(project, result)
        assert self.state(project) == before

    def state(self, project: Project) -> tuple[Any, ...]:
        files = sorted(path for folder in ("models", "data/features") for path in (project.root / folder).rglob("*"))
        times = [path.stat().st_mtime_ns for path in files]
        return project.git("rev-parse", "HEAD"), project.git("status", "--porcelain"), project.outputs(), times

    def every_stage_is(self, result: dict[str, Any]) -> None:
        found = findings(result)
        assert result["finding"] == "identical" and result["first_divergence"] is None
        assert found.pop("legacy") == {"as archived"}  # its weights are gone from the project
        assert found.pop("cost") == {_ANEW}
        assert found.pop("summary") == {"identical", _ANEW}  # the figures and plots; the summary holds times
        assert found.pop("validate") == {"identical", _ANEW}  # the pages for people name the moment of their making
        assert set(found) > {"import", "encoder", "features", "train", "evaluate", "package"}
        assert all(stage_findings == {"identical"} for stage_findings in found.values()), found
        assert all(stage["seconds"] > 0 for stage in result["stages"] if stage["name"] != "legacy")
        assert {item["finding"] for item in result["package"]} == {"identical"}
        assert {item["finding"] for item in result["artifact"]} == {"identical"}
        metrics = {item["subject"]: item["finding"] for item in result["metrics"]}
        assert metrics["means.auroc"] == "identical"
        assert metrics["latency_ms.p95"] == _ANEW
        assert result["environment"] == [] and result["environment_known"]

    def it_is_on_record(self, project: Project, result: dict[str, Any]) -> None:
        with project.inside():
            chain = open_records().chain
            (entry,) = [
                reproduction
                for reproduction in chain.entries(kinds=[EntryKind.REPRODUCTION])
                if reproduction.facts["result"] == result["result"]
            ]
        assert entry.subject == f"models:/{MODEL}/1"
        assert entry.facts["finding"] == "identical"
        assert entry.facts["result_sha256"] == file_sha256(project.root / result["result"])
        kept = read_json(project.root / result["result"])
        assert kept["stages"] == result["stages"]


class TestAnEnrolledVersion:
    def test_it_is_made_again_from_its_inbox(
        self, in_project: Project, prefect_server: str, command: Command, tmp_path: Path
    ) -> None:
        code, _, err = command("enroll", EXTRA_CLASS, str(in_project.root / f"factory/{EXTRA_CLASS}/train/good"))
        assert code == 0, err
        (in_project.root / "data/downloads/encoder.safetensors").unlink()
        code, out, err = command("audit", "reproduce", "2", "--json", "--keep", str(tmp_path / "kept"))
        assert code == 0, err
        result = json.loads(out.strip().splitlines()[-1])
        found = findings(result)
        assert found.pop("encoder") == {"as archived"}
        assert found.pop("cost") == {_ANEW}
        assert found.pop("summary") == {"identical", _ANEW}  # the figures and plots; the summary holds times
        assert found.pop("validate") == {"identical", _ANEW}  # the pages for people name the moment of their making
        assert all(stage_findings == {"identical"} for stage_findings in found.values()), found
        assert f"data/images/{EXTRA_CLASS}" in {i["subject"] for s in result["stages"] for i in s["items"]}
        assert (tmp_path / f"kept/project/models/inspector/banks/{EXTRA_CLASS}.safetensors").is_file()


class TestOnPostgresqlAndS3:
    def test_it_comes_out_as_on_files(
        self, prefect_server: str, aws: None, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flows.audit import audit
        from flows.retrain import retrain

        project = build_project(tmp_path / "project")
        with s3_server(BUCKET) as address, project.inside():
            monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
            monkeypatch.setenv("SHADOWLINE_DATA_URL", f"s3://{BUCKET}/data")
            monkeypatch.setenv("SHADOWLINE_ARTIFACTS_URL", f"s3://{BUCKET}/artifacts")
            monkeypatch.setenv("SHADOWLINE_DATABASE_URL", postgres.create_database())
            monkeypatch.setenv("SHADOWLINE_TRACKING_URI", postgres.create_database())
            retrain()
            (project.root / "factory/dots/train/good/000.png").chmod(0o644)
            found, _ = audit("1")
            assert found.finding is Finding.IDENTICAL, found.num_items
            assert not bad(item for stage in found.stages for item in stage.items)
            assert audit("1", verify_only=True)[0].finding is Finding.IDENTICAL
            self.one_flipped_byte_in_the_bucket_is_found(address, project)
            assert "a-secret" not in (project.root / ".dvc/config.local").read_text(encoding="utf-8")

    def one_flipped_byte_in_the_bucket_is_found(self, address: str, project: Project) -> None:
        from flows.audit import audit

        s3, md5 = boto3.client("s3", endpoint_url=address), project.outputs()["models/banks/dots.safetensors"]
        key = f"data/files/md5/{md5[:2]}/{md5[2:]}"
        data = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        s3.put_object(Bucket=BUCKET, Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))
        found, _ = audit("1", verify_only=True)
        named = bad(item for stage in found.stages for item in stage.items)
        assert {item.subject for item in named} == {
            "models/banks/dots.safetensors",
            "models/inspector/banks/dots.safetensors",
        }


class TestADivergence:
    def test_it_is_named_with_its_first_stage_and_what_inherits_it(
        self, in_project: Project, prefect_server: str, command: Command
    ) -> None:
        (in_project.root / "scale.py").write_text(_SCALE, encoding="utf-8")
        text = (in_project.root / "dvc.yaml").read_text(encoding="utf-8")
        changed = text.replace("cmd: shadowline stage train\n", "cmd: shadowline stage train && python scale.py\n")
        assert changed != text
        (in_project.root / "dvc.yaml").write_text(changed, encoding="utf-8")
        in_project.commit("Another way to train")
        set_tag("git_commit", in_project.git("rev-parse", "HEAD"))
        put_on_record(in_project)
        code, out, err = command("audit", "reproduce", "1", "--json")
        assert code == 1, err
        result = json.loads(out.strip().splitlines()[-1])
        assert result["first_divergence"] == "train"
        different = {stage["name"]: stage["inherited"] for stage in result["stages"] if stage["finding"] == "different"}
        assert different == {"train": False, "calibrate": True, "evaluate": True, "package": True}
        assert "models/decoder/decoder.safetensors" in json.dumps(result["stages"])
        assert {item["finding"] for item in result["artifact"]} == {"identical"}  # what is registered is as it was


class TestEveryByte:
    KINDS = (
        "data/code", "data/classes", "data/images/dots", "data/manifest/dots.parquet", "data/validation/checks",
        "models/encoder",
        "data/features/dots.safetensors", "data/training_set.json", "models/decoder", "models/banks/dots.safetensors",
        "models/moments/dots.safetensors", "models/identity/dots.safetensors", "models/calibration/dots.json",
        "models/legacy/dots", "data/evaluation/dots", "models/inspector", "data/summary.json",
        "data/class_metrics.json", "data/plots",
    )  # fmt: skip

    def test_one_flipped_bit_in_each_kind_of_kept_file_is_named_with_its_stage(self, audited: Any) -> None:
        from tasks.audit.verification import verify_remote
        from tasks.integrations.dvc_remote import open_remote

        outs = {out.path: (step.stage, out) for step in audited.steps for out in step.outs if out.kept}
        assert {path for path in outs if "stripes" not in path} == set(self.KINDS)
        assert not bad(item for stage in verify_remote.fn(audited) for item in stage.items)
        tried = 0
        with open_remote(audited.root, audited.project) as remote:
            for path in self.KINDS:
                stage, out = outs[path]
                file, md5 = sorted(remote.files(out).items())[-1]
                objects = [(file, md5)] + ([(path, out.md5)] if out.md5.endswith(".dir") else [])
                for name, digest in objects:
                    with touched(Path(remote.odb.oid_to_path(digest))):
                        found = {
                            outcome.name: {item.subject for item in bad(outcome.items)}
                            for outcome in verify_remote.fn(audited)
                        }
                    assert name in found[stage], (name, found)
                    tried += 1
        assert tried == len(self.KINDS) + 10  # ten are folders, whose list of files is an object as well

    def test_an_object_that_is_gone_is_missing_and_not_different(self, audited: Any) -> None:
        from tasks.integrations.dvc_remote import open_remote

        out = next(out for step in audited.steps for out in step.outs if out.path == "data/images/dots")
        with open_remote(audited.root, audited.project) as remote:
            file, md5 = sorted(remote.files(out).items())[0]
            lost = Path(remote.odb.oid_to_path(md5))
            lost.rename(lost.with_suffix(".lost"))
            (found,) = remote.check(out)
            lost.with_suffix(".lost").rename(lost)
        assert (found.subject, found.finding) == (file, Finding.MISSING)

    def test_one_flipped_bit_in_any_file_of_the_registered_model_is_named(self, audited: Any, tmp_path: Path) -> None:
        from tasks.audit.verification import verify_registered
        from tasks.integrations.provenance import list_files

        model = audited.registered.download(tmp_path)
        assert not bad(verify_registered.fn(audited, model))
        code = [name for name in list_files(model) if name.startswith("code/")]
        plain = [name for name in list_files(model) if not name.startswith("code/")]
        assert len(plain) > 10 and len(code) > 50
        for name in (*plain, code[0], code[-1]):
            with touched(model / name):
                assert name in {item.subject for item in bad(verify_registered.fn(audited, model))}, name

    def test_a_touched_list_summary_or_metric_of_the_run_is_named(self, audited: Any, tmp_path: Path) -> None:
        from tasks.audit.verification import verify_registered
        from tasks.integrations.mlflow_registry import client

        model, run_id = audited.registered.download(tmp_path), audited.registered.run_id
        store = Path(client().get_run(run_id).info.artifact_uri.removeprefix("file://"))
        for name in ("files.json", "summary.json"):
            with touched(store / name):
                (found,) = bad(verify_registered.fn(audited, model))
                assert found.subject == name
        auroc = audited.registered.metrics()["test/auroc"]
        client().log_metric(run_id, "test/auroc", 0.99)
        assert {item.subject: item.note for item in bad(verify_registered.fn(audited, model))} == {
            "test/auroc": f"0.99 in the run, {auroc} in its summary",
            "signed test/auroc": f"0.99 in the run, {auroc} in the audit chain",
        }
        client().log_metric(run_id, "test/auroc", auroc)
        with edited_by_hand("DELETE FROM latest_metrics WHERE key = 'test/auroc'"):
            lost = bad(verify_registered.fn(audited, model))
        assert {item.subject: item.finding for item in lost} == {
            "test/auroc": Finding.MISSING,
            "signed test/auroc": Finding.MISSING,
        }

    def test_a_tag_that_is_changed_or_gone_is_named_by_the_audit_chain(self, audited: Any, tmp_path: Path) -> None:
        from tasks.audit.verification import verify_registered
        from tasks.integrations.audit_log import PROVENANCE

        model = audited.registered.download(tmp_path)
        names = {*PROVENANCE, "class_fingerprints"}
        others = {**audited.registered.tags, **dict.fromkeys(names, "of another version")}
        for tags, finding in ((others, Finding.DIFFERENT), ({}, Finding.MISSING)):
            place = replace(audited, registered=replace(audited.registered, tags=tags))
            found = {item.subject for item in verify_registered.fn(place, model) if item.finding is finding}
            assert found >= {f"tag {name}" for name in names}

    def test_a_summary_of_the_run_that_is_gone_or_none_is_a_finding_and_no_end(self, audited: Any) -> None:
        from tasks.audit.reproduction import compare_results
        from tasks.integrations.mlflow_registry import client

        store = Path(client().get_run(audited.registered.results_run).info.artifact_uri.removeprefix("file://"))
        audited.layout.summary.parent.mkdir(exist_ok=True)
        shutil.copyfile(store / "summary.json", audited.layout.summary)
        assert not bad(compare_results(audited))
        text = (store / "summary.json").read_text(encoding="utf-8")
        for broken in ("{", "[]", "{}", json.dumps({**json.loads(text), "verdict": {"checks": [7]}})):
            (store / "summary.json").write_text(broken, encoding="utf-8")
            (found,) = compare_results(audited)
            assert (found.subject, found.finding) == ("summary.json", Finding.DIFFERENT), broken
        (store / "summary.json").unlink()
        (found,) = compare_results(audited)
        assert found.finding is Finding.DIFFERENT
        shutil.move(audited.layout.summary, store / "summary.json")

    @pytest.mark.parametrize(("name", "old", "new"), [("dvc.lock", "md5: ", "md5: 0"), ("params.yaml", "7", "8")])
    def test_another_lock_and_other_parameters_than_registered_are_not_tried(
        self, in_project: Project, prefect_server: str, command: Command, name: str, old: str, new: str
    ) -> None:
        path = in_project.root / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        in_project.commit("Nobody will notice")
        set_tag("git_commit", in_project.git("rev-parse", "HEAD"))
        code, _, err = command("audit", "reproduce", "1", "--verify-only")
        assert code == 2
        assert f"error: models:/{MODEL}/1: {name} of commit" in err and "restore the repository" in err

    def test_a_commit_that_git_cannot_read_is_not_tried(
        self, in_project: Project, prefect_server: str, command: Command
    ) -> None:
        blob = in_project.git("rev-parse", "HEAD:params.yaml")
        with touched(in_project.root / f".git/objects/{blob[:2]}/{blob[2:]}"):
            code, _, err = command("audit", "reproduce", "1", "--verify-only")
        assert code == 2 and "error: git checkout: " in err


class TestWhatCannotBeTried:
    def test_it_ends_in_one_line(
        self, in_project: Project, prefect_server: str, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def error(version: str = "1") -> str:
            code, _, err = command("audit", "reproduce", version, "--verify-only")
            assert code == 2
            (line,) = [splitline for splitline in err.splitlines() if splitline.startswith("error: ")]
            return line

        assert "models:/inspector/7" in error("7") and "`shadowline models`" in error("7")
        monkeypatch.setenv("SHADOWLINE_DATA_URL", "file://data/nowhere")
        assert "data/nowhere: nothing is there; check SHADOWLINE_DATA_URL" in error()
        monkeypatch.setenv("SHADOWLINE_DATA_URL", "ftp://host/data")
        assert "need file://FOLDER or s3://BUCKET/PREFIX" in error()
        monkeypatch.delenv("SHADOWLINE_DATA_URL")
        set_tag("git_commit", "0" * 40)
        assert f"commit {'0' * 40} is not in this repository" in error()

    def test_a_store_that_nobody_answers_for_is_named(
        self, audited: Any, aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from tasks.integrations.dvc_remote import RemoteError, open_remote

        monkeypatch.setenv("SHADOWLINE_DATA_URL", "s3://plant/data")
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        clone = shutil.copytree(audited.root, tmp_path / "clone")
        lines = r"data remote s3://plant/data: .*; check SHADOWLINE_DATA_URL"
        with pytest.raises(RemoteError, match=lines), open_remote(clone):
            pass

    def test_s3_without_its_package_says_what_to_install(self, audited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from tasks.integrations.dvc_remote import configure_remote

        monkeypatch.setenv("SHADOWLINE_DATA_URL", "s3://plant/data")
        monkeypatch.setitem(sys.modules, "dvc_s3", None)
        with pytest.raises(ValueError, match=r"run `pip install 'shadowline\[s3\]'`"):
            configure_remote(audited.root)


class TestThePush:
    def test_a_push_that_fails_registers_nothing_and_the_next_run_computes_nothing(
        self, in_project: Project, prefect_server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flows import retrain as flow
        from tasks.integrations.mlflow_registry import list_versions

        (before,) = list_versions(MODEL)
        monkeypatch.setattr(flow, "push_data", flow.push_data.with_options(retries=1, retry_delay_seconds=0))
        blocked = in_project.root / "data/blocked"
        blocked.write_text("a file where a folder should be", encoding="utf-8")
        monkeypatch.setenv("SHADOWLINE_DATA_URL", "file://data/blocked")
        in_project.edit_params(gates={"max_latency_ms": 70_000})
        state = in_project.retrain()
        assert state.is_failed() and "data/blocked" in str(state.message)
        assert list_versions(MODEL) == [before]
        blocked.unlink()
        result = in_project.retrain().result()
        assert [stage.name for stage in result.stages if not stage.skipped] == []
        assert result.git_commit == in_project.git("rev-parse", "HEAD") != before.tags["git_commit"]
        assert result.version.tags["git_commit"] == before.tags["git_commit"]
        assert (in_project.root / "data/blocked/files/md5").is_dir()

    def test_a_store_that_comes_back_gets_everything(
        self, in_project: Project, prefect_server: str, aws: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.integrations.dvc_remote import open_remote, push_data

        port = free_port()
        monkeypatch.setenv("SHADOWLINE_DATA_URL", f"s3://{BUCKET}/data")
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("SHADOWLINE_S3_ENCRYPTION", "AES256")
        ended = threading.Event()
        begun = time.monotonic()

        def come_back() -> None:
            time.sleep(3)
            with s3_server(BUCKET, port):
                ended.wait(120)

        store = threading.Thread(target=come_back)
        store.start()
        try:
            push_data(in_project.root)
            assert time.monotonic() - begun > 3
            with open_remote(in_project.root) as remote:
                assert list(remote.odb.all())
                key = next(iter(remote.odb.all()))
            s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
            head = s3.head_object(Bucket=BUCKET, Key=f"data/files/md5/{key[:2]}/{key[2:]}")
            assert head["ServerSideEncryption"] == "AES256"
        finally:
            ended.set()
            store.join()

    def test_what_the_store_has_lost_is_pushed_again_and_what_nobody_has_is_refused(self, in_project: Project) -> None:
        from tasks.integrations.dvc_remote import RemoteError, open_remote, push_data, read_steps

        push_data.fn(in_project.root)
        out = next(out for step in read_steps(in_project.root) for out in step.outs if out.path == "data/images/dots")
        with open_remote(in_project.root) as remote:
            md5 = sorted(remote.files(out).values())[0]
            lost = Path(remote.odb.oid_to_path(md5))
        lost.unlink()
        push_data.fn(in_project.root)
        assert lost.is_file()
        lost.unlink()
        (in_project.root / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").unlink()
        with pytest.raises(RemoteError, match=r"data/images/dots"):
            push_data.fn(in_project.root)

    def test_dvc_is_told_once_and_of_no_secret(self, in_project: Project, aws: None) -> None:
        from tasks.integrations.dvc_remote import configure_remote

        configure_remote(in_project.root)
        path = in_project.root / ".dvc/config.local"
        before = path.stat().st_mtime_ns, path.read_text(encoding="utf-8")
        configure_remote(in_project.root)
        assert (path.stat().st_mtime_ns, path.read_text(encoding="utf-8")) == before
        assert in_project.git("status", "--porcelain") == ""
        assert in_project.git("check-ignore", ".dvc/config.local") == ".dvc/config.local"


def test_a_version_carries_what_it_was_made_with(in_finished: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    (version,) = list_versions(MODEL)
    made_with = json.loads(version.tags["environment"])
    assert {"python", "cpu", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow"} <= set(
        made_with
    )
    assert {"safetensors", "shadowline", "threads", "device"} <= set(made_with)
    assert version.tags["data_url"] == "file://data/remote"
    assert version.tags["encoder_source_sha256"] == file_sha256(in_finished.root / "data/downloads/encoder.safetensors")
    lock = yaml.safe_load((in_finished.root / "dvc.lock").read_text(encoding="utf-8"))
    assert set(CLASSES) <= {name.partition("@")[2] for name in lock["stages"]}
