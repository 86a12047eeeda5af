"""A model by its location: a local directory, or a `models:/…` URI of MLflow's registry.

    directory, version = resolve("models:/inspector@champion")

No other module of the library queries the registry; MLflow is imported at the first URI.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_attempt

from shadowline.core.secrets import mask
from shadowline.core.settings import Settings, prepare_environment, tracking_address
from shadowline.models.registry_home import require_own_files

SCHEME = "models:/"
_ATTEMPTS = 3  # of a download


def resolve(location: str, inside: str = "artifacts/inspector") -> tuple[Path, str]:
    """The local directory and the version of a model; for a `models:/…` URI the folder `inside` the registered model.

    A directory has the version "directory". Raises ValueError where the registry has no such version.
    """
    if not location.startswith(SCHEME):
        return Path(location), "directory"
    import mlflow

    prepare_environment()
    require_own_files(Settings().tracking_uri, Path())
    mlflow.set_tracking_uri(tracking_address(Settings().tracking_uri))
    name, _, alias = location.removeprefix(SCHEME).partition("@")
    client = mlflow.MlflowClient()
    try:
        version = client.get_model_version_by_alias(name, alias).version if alias else name.partition("/")[2]
        exact = f"{SCHEME}{name.partition('/')[0]}/{version}"
        folder = download_with_retries(lambda: mlflow.artifacts.download_artifacts(exact))
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{location}: {mask(error.message)}; `shadowline models` lists what is registered") from None
    return folder / inside, str(version)


def newest_passed(name: str) -> str | None:
    """`models:/NAME/VERSION` of the newest version whose verdict is positive; None where there is none.

    Raises ValueError where the registry does not answer.
    """
    import mlflow

    prepare_environment()
    mlflow.set_tracking_uri(tracking_address(Settings().tracking_uri))
    try:
        versions = mlflow.MlflowClient().search_model_versions(f"name='{name}'")
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"registry: {mask(error.message)}; name a --model") from None
    passed = [int(version.version) for version in versions if version.tags.get("verdict") == "passed"]
    return f"{SCHEME}{name}/{max(passed)}" if passed else None


def download_with_retries(download: Callable[[], str]) -> Path:
    """Run MLflow's `download`, again after a passing failure of the store, three attempts in all.

    A folder takes hundreds of requests, and a single unanswered request ends the download. Raises the error of the last
    attempt.
    """
    retrying = Retrying(retry=retry_if_exception(_is_passing), stop=stop_after_attempt(_ATTEMPTS), reraise=True)
    return Path(retrying(download))


def _is_passing(error: BaseException) -> bool:
    return getattr(error, "error_code", "") == "INTERNAL_ERROR"
