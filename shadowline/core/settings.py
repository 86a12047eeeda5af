"""Where things are: read from the environment (`SHADOWLINE_*`), never from a file in git. Secrets live only here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shadowline.core.masked_logs import mask_logs
from shadowline.core.network import bypass_proxy
from shadowline.core.secrets import mask

_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # which would write between the lines of --json
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_PATIENT = {  # each about a minute or two in all
    "AWS_RETRY_MODE": "legacy",  # "standard" stops repeating after many failures, and never repeats a HEAD at 429
    "AWS_MAX_ATTEMPTS": "8",  # of one request
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # of the server that a run starts where there is none
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # which Prefect's server answers while its database restarts
}


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", name):
        raise ValueError(f"{name!r} is no device; need auto, cpu, cuda or, for one of several GPUs, cuda:1")
    return name


Device = Annotated[str, AfterValidator(_known_device)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHADOWLINE_", extra="ignore")

    device: Device = "auto"  # where models run: auto (a GPU if there is one), cpu, cuda, cuda:1 …
    tracking_uri: str = "sqlite:///mlflow.db"  # MLflow's tracking and registry store
    database_url: str = "sqlite:///data/records.db"  # all records; or postgresql+psycopg://USER:PASSWORD@HOST/NAME
    notify_url: SecretStr | None = None  # webhook that is told of rollout moves; often holds a token, hence a secret
    archive_url: str = "file://data/archive"  # where legacy models are archived; or s3://bucket/prefix
    data_url: str = "file://data/remote"  # DVC's remote: every file of every version; or s3://bucket/prefix
    artifacts_url: str = ""  # where MLflow keeps the files of new experiments, e.g. s3://…; empty: beside its store
    s3_endpoint: str | None = None  # of an S3 store that is not Amazon's, e.g. https://minio.plant.local:9000
    s3_encryption: Literal["", "AES256", "aws:kms"] = ""  # on the server, AES256 or aws:kms; empty: the bucket's own
    audit_keys: Path = Path("data/audit/keys")  # the keys that sign the audit chain, and what it ended with last
    audit_passphrase: SecretStr | None = None  # encrypts the private keys, those that exist and new ones
    audit_witness: str = ""  # a share's folder or s3://bucket/prefix that is told every head of the audit chain
    inbox_url: str = ""  # an s3:// prefix with a folder per class, polled for images of new products
    shadow_url: str = ""  # folder or s3:// prefix with a folder per class, whose images both models judge at night
    gateway_keys: SecretStr = SecretStr("")  # separated by commas; a caller sends one as X-API-Key; none: loopback
    spool_dir: Path = Path(".shadowline/spool")  # where the gateway keeps pairs while the database is away
    allow_network: bool = False  # let timm and open_clip reach the model hub

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What a debugger and an error of pydantic show: no password of a URL."""
        return ((name, mask(value) if isinstance(value, str) else value) for name, value in super().__repr_args__())


def prepare_environment() -> None:
    """Set environment variables: no tool contacts its vendor, retries are patient, MLflow gets our settings of S3 and
    of its server, and loopback addresses are not asked through a proxy.

    A value that the user has set stays. Logs of this process hold no secrets from here on.
    """
    mask_logs()
    settings = Settings()
    for name, value in {**_OFFLINE, **_PATIENT, **_s3(settings), **_server_login(settings.tracking_uri)}.items():
        if name == "HF_HUB_OFFLINE" and settings.allow_network:
            continue
        os.environ.setdefault(name, value)
    os.environ.update(bypass_proxy(os.environ))


def tracking_address(uri: str) -> str:
    """The tracking URI as MLflow may repeat it in errors: of a server without its login, which `prepare_environment`
    puts into MLflow's own variables."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _server_login(uri: str) -> dict[str, str]:
    """MLflow's variables for the login that a server's URI holds."""
    if tracking_address(uri) == uri:
        return {}
    user, _, password = urlsplit(uri).netloc.rpartition("@")[0].partition(":")
    return {"MLFLOW_TRACKING_USERNAME": unquote(user), "MLFLOW_TRACKING_PASSWORD": unquote(password)}


def _s3(settings: Settings) -> dict[str, str]:
    """MLflow's variables for S3."""
    variables = {}
    if settings.s3_endpoint:
        variables["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_endpoint
    if settings.s3_encryption:
        variables["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps({"ServerSideEncryption": settings.s3_encryption})
    return variables
