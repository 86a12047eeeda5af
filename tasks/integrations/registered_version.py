"""What the registry holds of one version, for its reproduction and verification.

registered = find_registered("inspector", "3")        # its tags, its run
folder = registered.download(scratch)                 # every file of the logged model
registered.summary(scratch)                           # data/summary.json of the results run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shadowline.core.atomic_files import read_json
from shadowline.core.hashing import file_sha256
from tasks.integrations.git import has_commit
from tasks.integrations.mlflow_registry import STORE_ERRORS, all_versions, client
from tasks.integrations.provenance import FILES, download, first_line


@dataclass(frozen=True)
class Registered:
    """One exact version, with all that is needed to reproduce it."""

    uri: str  # models:/inspector/3
    source: str  # where the logged model lies
    run_id: str  # of the logged model
    tags: Mapping[str, str]

    @property
    def results_run(self) -> str:
        """The run with the evaluation of the model: the last run that arrived at this very model."""
        return self.tags.get("results_run", self.run_id)

    @property
    def environment(self) -> dict[str, str]:
        """Empty where it was not recorded."""
        return dict(json.loads(self.tags.get("environment", "{}")))

    def tag(self, name: str) -> str:
        """Raises ValueError where the version lacks the tag."""
        if name not in self.tags:
            raise ValueError(f"{self.uri}: has no tag {name}, and cannot be made again; was it registered by hand?")
        return self.tags[name]

    def download(self, folder: Path) -> Path:
        """Download the logged model below `folder`. Raises ValueError where it is missing."""
        return download(self.uri, self.source, folder / "registered")

    def files(self, folder: Path) -> dict[str, str] | None:
        """Path → sha256 as listed at the registration; None where no list was made. Raises ValueError."""
        if "files_sha256" not in self.tags:
            return None
        path = download(self.uri, f"runs:/{self.run_id}/{FILES}", folder / "files")
        if file_sha256(path) != self.tags["files_sha256"]:
            raise ValueError(f"{self.uri}: {FILES} of run {self.run_id} is not the list that was made at registration")
        return dict(read_json(path))

    def summary(self, folder: Path) -> Path:
        """Download data/summary.json of the results run. Raises ValueError where it is missing."""
        return download(self.uri, f"runs:/{self.results_run}/summary.json", folder / "results")

    def metrics(self) -> dict[str, float]:
        """Name → value in the results run."""
        return dict(client().get_run(self.results_run).data.metrics)


def find_registered(model_name: str, version: str) -> Registered:
    """Raises ValueError for a version that is not registered."""
    uri = f"models:/{model_name}/{version}"
    try:
        registered = client().get_model_version(model_name, version)
    except STORE_ERRORS as error:
        raise ValueError(f"{uri}: {first_line(error)}; `shadowline models` lists the versions") from None
    return Registered(uri, str(registered.source), str(registered.run_id), dict(registered.tags))


def known_commits(root: Path, model_name: str) -> list[str]:
    """The commits of the registered versions that the repository has."""
    versions = all_versions(client(), model_name)
    commits = {version.tags["git_commit"] for version in versions if "git_commit" in version.tags}
    return sorted(commit for commit in commits if has_commit(root, commit))
