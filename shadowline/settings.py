"""Where things are: read from the environment (`SHADOWLINE_*`), never from a file in git. Secrets live only here."""

from __future__ import annotations

import os

from pydantic_settings import BaseSettings, SettingsConfigDict

_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHADOWLINE_", extra="ignore")

    device: str = "auto"  # auto | cpu | cuda | cuda:1 …
    tracking_uri: str = "sqlite:///mlflow.db"  # MLflow's tracking and registry store
    database_url: str = "sqlite:///.shadowline/records.db"  # pairs, feedback and rollout; or postgresql+psycopg://…
    allow_network: bool = False  # let timm and open_clip reach the model hub


def prepare_environment() -> None:
    """Keep every tool below us from calling out; a value that the user has set stays."""
    for name, value in _OFFLINE.items():
        if name == "HF_HUB_OFFLINE" and Settings().allow_network:
            continue
        os.environ.setdefault(name, value)
