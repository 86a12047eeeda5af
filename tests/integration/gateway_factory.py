"""A small factory for the gateway: two classes, a real inspector, a real PatchCore each, a rollout in a database.

factory.move(dots=Phase.SHADOW)           # every legal step up to there, committed
with factory.serve() as site:             # a real server on a free port, in this process
    site.inspect("dots", png)
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import uvicorn
from PIL import Image
from pydantic import SecretStr

from integration.tiny_project import (
    CLASSES,
    Project,
    build_project,
    free_port,
    kill,
    picture,
    wait_until,
    with_hole,
)
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.progress import Progress
from shadowline.core.settings import Settings
from shadowline.gateway.app import build_app
from shadowline.gateway.lifecycle import Gateway
from shadowline.inference.model_pool import Load
from shadowline.models.detector import Detector
from shadowline.models.loader import load_detector
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database
from shadowline.records.pairs import utc_now
from shadowline.records.rollout_store import ModelPlace
from shadowline.records.stores import Records, records_on
from shadowline.rollout.engine import Step, begin
from shadowline.rollout.phases import FORWARD, Phase
from shadowline.rollout.state import ClassState, Event

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
SHARES = {Phase.CANARY: 0.5, Phase.LIVE: 1.0, Phase.LEGACY_READ_ONLY: 1.0, Phase.LEGACY_OFF: 1.0}
KEY = "a-key-of-the-tests"
_STAGES = [
    "import_class",
    "encoder",
    "features",
    "training_set",
    "train",
    "bank",
    "identity",
    "calibrate",
    "legacy",
    "package",
]
_PER_CLASS = {"import_class", "features", "bank", "identity", "calibrate", "legacy"}


def build_models(root: Path) -> Project:
    """A tiny project with a packaged inspector and both legacy models; seconds, without DVC and Prefect."""
    project = build_project(root)
    with project.inside():
        params = load_params(project.layout.params)
        for name in _STAGES:
            stage = importlib.import_module(f"shadowline.stages.{name}")
            for arguments in [(one,) for one in CLASSES] if name in _PER_CLASS else [()]:
                stage.run(*arguments, params, project.layout, Progress())
    return project


def png(name: str, number: int = 0, *, hole: bool = False) -> bytes:
    """An image of a class as the bytes of a file; another number, another image."""
    image = picture(name, "gateway", number)
    if hole:
        image, _ = with_hole(image, number % 8)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image_id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decoded(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def wait_for(happened: Callable[[], bool], seconds: float = 30) -> None:
    """Look every few milliseconds whether it happened."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing happened within {seconds} s"
        time.sleep(0.005)


@functools.cache
def _fingerprint(location: str, name: str) -> str:
    return load_detector(location, name).fingerprint


@dataclass
class Site:
    """A running gateway, as a caller sees it; `gateway` is what runs, where it runs in this process."""

    port: int
    gateway: Gateway | None = None
    server: uvicorn.Server | None = None
    key: str | None = KEY
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"X-API-Key": self.key} if self.key else {}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    def post(self, data: bytes, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        return self.client.post("/v1/inspect", files={"image": ("a.png", data)}, data=fields, headers=headers)

    def inspect(self, class_name: str, data: bytes, **fields: str) -> dict[str, Any]:
        answer = self.post(data, class_name=class_name, **fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ready(self) -> tuple[int, dict[str, Any]]:
        answer = self.client.get("/readyz")
        return answer.status_code, answer.json()

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 where it was never touched."""
        for line in self.client.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                return float(value)
        return 0.0


@dataclass
class Factory:
    """A database with a rollout, beside the models of a project."""

    models: Project
    root: Path
    url: str
    records: Records
    overrides: dict[tuple[str, str], Callable[[Detector], Detector]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, models: Project, root: Path, url: str | None = None, planned: Sequence[str] = tuple(CLASSES)
    ) -> Factory:
        """All models on record, and a rollout of the `planned` classes."""
        root.mkdir(parents=True, exist_ok=True)
        url = url or f"sqlite:///{root / 'database' / 'records.db'}"
        factory = cls(models, root, url, records_on(open_database(url), KeyFolder(root / "audit-keys")))
        places = {role: {name: factory._place(role, name) for name in CLASSES} for role in ("legacy", "candidate")}
        factory.records.rollout.know_model([one for role in places.values() for one in role.values()], START)
        fingerprints = {role: {n: p.fingerprint for n, p in one.items()} for role, one in places.items()}
        if planned:
            _, events = begin([planned], fingerprints["legacy"], fingerprints["candidate"], START, "Ada")
            factory.records.rollout.begin(events)
        return factory

    def _place(self, role: str, name: str) -> ModelPlace:
        location = str(self.location(role, name))
        return ModelPlace(_fingerprint(location, name), name, role, location, "3")

    def location(self, role: str, name: str) -> Path:
        return self.models.layout.package if role == "candidate" else self.models.layout.legacy(name)

    def detector(self, role: str, name: str) -> Detector:
        return load_detector(str(self.location(role, name)), name)

    # --- the rollout ---

    def state(self, name: str) -> ClassState:
        return self.records.rollout.state().of(name)

    def move(self, **phases: Phase) -> None:
        """Commit every step from where a class stands to its new phase."""
        for name, target in phases.items():
            before = self.state(name).phase
            path = FORWARD[FORWARD.index(before) + 1 : FORWARD.index(target) + 1] if target in FORWARD else (target,)
            for phase in path:
                self.change(name, phase=phase, share=SHARES.get(phase, 0.0))

    def hold(self, name: str) -> None:
        self.change(name, phase=Phase.HELD, held_from=self.state(name).phase, held_at=START)

    def change(self, name: str, **values: Any) -> int:
        """Commit one event, as a tick would; returns its revision."""
        state = self.records.rollout.state()
        before = state.of(name)
        event = Event(state.revision + 1, datetime.now(UTC), "Ada", before.phase, replace(before, **values))
        after = replace(state.with_classes([event.after]), revision=event.revision)
        self.records.rollout.commit(Step(after, (event,), (), "", (), {}))
        return event.revision

    # --- pairs ---

    def pairs(self, name: str) -> pd.DataFrame:
        one = self.state(name)
        return self.records.pairs.table(name, one.candidate, one.legacy)

    def judged_alone(self, name: str) -> pd.DataFrame:
        """What the legacy model judged without a candidate beside it."""
        return self.records.pairs.table(name, "", self.state(name).legacy)

    def wait_for_pairs(self, name: str, count: int) -> pd.DataFrame:
        wait_for(lambda: len(self.pairs(name)) >= count)
        return self.pairs(name)

    # --- serving ---

    def environment(self, **values: str) -> dict[str, str]:
        """Of a gateway in a process of its own, in the project's folder."""
        own = {"DATABASE_URL": self.url, "GATEWAY_KEYS": KEY, "SPOOL_DIR": str(self.root / "spool")}
        own |= {"AUDIT_KEYS": str(self.root / "audit-keys"), **values}
        return {**self.models.environment, **{f"SHADOWLINE_{name}": value for name, value in own.items()}}

    @contextmanager
    def serve_process(self, *options: str) -> Iterator[tuple[Site, subprocess.Popen[str]]]:
        """`shadowline serve` until it answers; killed at the end, with its workers, unless it has ended."""
        port = free_port()
        command = ("shadowline", "serve", "--port", str(port), *options)
        process = subprocess.Popen(
            command, cwd=self.models.root, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        site = Site(port)
        try:
            wait_until(lambda: _answers(site), process)
            yield site, process
        finally:
            site.client.close()
            kill(process)

    def params(self, **gateway: float) -> Params:
        """The project's, with the gateway's in quick, and these changed."""
        found = load_params(self.models.layout.params)
        quick = {"poll_interval_ms": 20, "reload_interval_ms": 200, "candidate_timeout_ms": 5_000, **gateway}
        return found.model_copy(update={"gateway": found.gateway.model_copy(update=quick)})

    @property
    def settings(self) -> Settings:
        return Settings(database_url=self.url, gateway_keys=SecretStr(f"{KEY}, another"), spool_dir=self.root / "spool")

    @property
    def load(self) -> Load:
        def load(location: str, class_name: str) -> Detector:
            detector = load_detector(location, class_name)
            role = "candidate" if location == str(self.models.layout.package) else "legacy"
            return self.overrides.get((role, class_name), lambda same: same)(detector)

        return load

    @contextmanager
    def serve(
        self,
        params: Params | None = None,
        settings: Settings | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> Iterator[Site]:
        gateway = Gateway(settings or self.settings, params or self.params(), Layout(self.root), self.load, clock)
        port = free_port()
        config = uvicorn.Config(build_app(gateway), host="127.0.0.1", port=port, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive())
        assert thread.is_alive(), "the server ended before it began"
        site = Site(port, gateway, server)
        try:
            yield site
        finally:
            site.client.close()
            server.should_exit = True
            thread.join()


def _answers(site: Site) -> bool:
    try:
        return site.client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class Wrapped:
    """A detector that is asked like another; its subclasses misbehave."""

    inner: Detector

    @property
    def class_name(self) -> str:
        return self.inner.class_name

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    @property
    def threshold(self) -> float:
        return self.inner.threshold

    def score(self, images: Any) -> Any:
        return self.inner.score(images)

    def maps(self, images: Any) -> Any:
        return self.inner.maps(images)


class Crashing(Wrapped):
    def score(self, images: Any) -> Any:
        raise MemoryError("no\x00room")


class Nameless(Wrapped):
    """Its scores are no numbers."""

    def score(self, images: Any) -> Any:
        return np.full(len(images), np.nan)


@dataclass
class Gated(Wrapped):
    """Scores nothing until the gate opens; writes down the sizes of its batches."""

    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)

    def score(self, images: Any) -> Any:
        self.batches.append(len(images))
        assert self.gate.wait(60)
        return self.inner.score(images)


class Alarming(Wrapped):
    """Takes every part for a bad one."""

    def score(self, images: Any) -> Any:
        return np.full(len(images), self.threshold + 1.0)


class Slow(Wrapped):
    """A machine with other work to do."""

    def score(self, images: Any) -> Any:
        time.sleep(0.3)
        return self.inner.score(images)


class RefusingHoles(Wrapped):
    """Fails on a batch that holds an image with a white disc."""

    def score(self, images: Any) -> Any:
        if any((np.asarray(image) == 255).all(axis=2).sum() > 20 for image in images):
            raise RuntimeError("a hole")
        return self.inner.score(images)
