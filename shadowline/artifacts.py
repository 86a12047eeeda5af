"""Files that MLflow keeps, begun again where only the way was bad.

folder = fetch_artifacts("models:/inspector/3")
"""

from __future__ import annotations

from pathlib import Path

_TRIES = 3  # of a whole folder: hundreds of requests, of which one that fails for a minute would end it


def fetch_artifacts(uri: str, folder: Path | None = None) -> Path:
    """A local copy, below `folder` where that is given. Raises MlflowException, or OSError for a store of files."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    def is_passing(error: BaseException) -> bool:
        return isinstance(error, MlflowException) and error.error_code == "INTERNAL_ERROR"

    again = Retrying(retry=retry_if_exception(is_passing), stop=stop_after_attempt(_TRIES), reraise=True)
    return Path(again(mlflow.artifacts.download_artifacts, artifact_uri=uri, dst_path=folder and str(folder)))
