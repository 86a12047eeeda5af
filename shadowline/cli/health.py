"""Whether this machine can run Shadowline: one check each for versions, device, weights, servers, disk, rights, clock.

check_all(Settings(), layout)       # a list of HealthCheck; takes seconds, changes nothing
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.printable import one_line
from shadowline.core.secrets import mask
from shadowline.core.settings import Settings

PACKAGES = ("shadowline", "torch", "timm", "numpy", "dvc", "prefect", "mlflow", "great-expectations", "fastapi")
PROGRAMS = ("git", "dvc")
TIMEOUT_S = 4.0  # of one request to a server
LOW_DISK_GB, FULL_DISK_GB = 10.0, 1.0  # free; features of 1000 images take about 0.4 GB
MAX_CLOCK_S = 60.0  # that the clocks of two machines may differ


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, with a limit that the text names
    BLOCKED = "blocked"  # something of Shadowline cannot work


@dataclass(frozen=True)
class HealthCheck:
    """One thing that was looked at; `advice` says what to do where it is not ok."""

    name: str
    health: Health
    found: str
    advice: str = ""


def check_all(settings: Settings, layout: Layout) -> list[HealthCheck]:
    """Every check, in the order of a reader; servers are asked at the same time."""
    project = check_project(layout)
    params = load_params(layout.params) if project.health is Health.OK else None
    slow: list[Callable[[], list[HealthCheck]]] = [
        lambda: [check_device(settings.device)],
        lambda: [check_database(settings.database_url)],
        lambda: check_server("MLflow", settings.tracking_uri, "/health", "SHADOWLINE_TRACKING_URI"),
        lambda: check_server("Prefect", os.environ.get("PREFECT_API_URL", ""), "/health", "PREFECT_API_URL"),
        *(lambda url=url, name=name: check_storage(name, url, settings) for name, url in _storages(settings)),
    ]
    with ThreadPoolExecutor(len(slow)) as pool:
        servers = [check for answer in [pool.submit(ask) for ask in slow] for check in answer.result()]
    local = [check_python(), *check_packages(), *check_programs(), project, *check_weights(params, layout)]
    return [*local, *servers, *check_disks(layout), *check_rights(layout, settings), check_history(layout)]


# --- what is installed ----------------------------------------------------------------------------------------------


def check_python() -> HealthCheck:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return HealthCheck("Python", Health.OK, found)
    return HealthCheck("Python", Health.BLOCKED, found, "install Shadowline with Python 3.11 or 3.12")


def check_packages() -> Iterator[HealthCheck]:
    for name in PACKAGES:
        try:
            yield HealthCheck(name, Health.OK, version(name))
        except PackageNotFoundError:
            yield HealthCheck(name, Health.BLOCKED, "not installed", "install Shadowline again")


def check_programs() -> Iterator[HealthCheck]:
    """Programs that flows and stages start; those beside this interpreter count."""
    beside = str(Path(sys.executable).parent)
    for name in PROGRAMS:
        place = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
        if place is None:
            yield HealthCheck(name, Health.BLOCKED, "not on the PATH", f"install {name}")
        elif name not in PACKAGES:
            yield HealthCheck(name, Health.OK, place)


# --- the project and its weights ------------------------------------------------------------------------------------


def check_project(layout: Layout) -> HealthCheck:
    where = str(layout.root.resolve())
    try:
        params = load_params(layout.params)
    except FileNotFoundError:
        return HealthCheck("project", Health.WARNING, f"{where} is none", "go to a project's root")
    except ValueError as error:
        return HealthCheck("project", Health.BLOCKED, _one_line(error), "correct params.yaml")
    return HealthCheck("project", Health.OK, f"{where}: {len(params.classes)} classes")


def check_weights(params: Params | None, layout: Layout) -> Iterator[HealthCheck]:
    """The files that params.yaml names; weights of the model hub are no file."""
    if params is None:
        return
    named = {"legacy": params.legacy.location}
    if params.encoder.weights != "hub":
        named = {"encoder": params.encoder.location, **named}
    for section, location in named.items():
        path = layout.root / location
        if path.is_file():
            yield HealthCheck(f"{section} weights", Health.OK, f"{location}, {path.stat().st_size / 1e6:.0f} MB")
        else:
            advice = f"place the file there, or run `shadowline data fetch` for the demo's; {section}.location names it"
            yield HealthCheck(f"{section} weights", Health.BLOCKED, f"{location} is missing", advice)


# --- the device -----------------------------------------------------------------------------------------------------


def check_device(wanted: str) -> HealthCheck:
    """The device that SHADOWLINE_DEVICE names, tried with one small tensor."""
    import torch

    from shadowline.core.device import pick_device

    try:
        device = pick_device()
        torch.zeros(1, device=device).add(1).item()
    except (ValueError, RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        advice = "set SHADOWLINE_DEVICE to cpu, or install the driver that this torch needs"
        return HealthCheck("device", Health.BLOCKED, f"{wanted}: {_one_line(error)}", advice)
    if device.type == "cuda":
        return HealthCheck("device", Health.OK, f"{device}, {torch.cuda.get_device_name(device)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return HealthCheck("device", Health.OK, f"{device}, {cores} cores")


# --- servers --------------------------------------------------------------------------------------------------------


def check_database(url: str) -> HealthCheck:
    """The records' database, and for PostgreSQL the difference of its clock; a SQLite file is not created."""
    from sqlalchemy import create_engine, func, make_url, select
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    advice = "check SHADOWLINE_DATABASE_URL, and that the server runs"
    try:
        parsed = make_url(url)
    except ArgumentError:
        return HealthCheck("database", Health.BLOCKED, "no database URL", advice)
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    is_file = parsed.drivername.startswith("sqlite")
    if is_file and not Path(parsed.database or "").is_file():
        return HealthCheck("database", Health.OK, f"{shown}, made at the first use")
    try:
        engine = create_engine(parsed, connect_args={} if is_file else {"connect_timeout": int(TIMEOUT_S)})
        with engine.connect() as connection:
            now = connection.execute(select(1 if is_file else func.now())).scalar_one()
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        return HealthCheck("database", Health.BLOCKED, f"{shown}: {_one_line(getattr(error, 'orig', error))}", advice)
    return HealthCheck("database", Health.OK, shown) if is_file else _with_clock("database", shown, now)


def check_server(name: str, url: str, path: str, variable: str) -> list[HealthCheck]:
    """A server by HTTP, with the difference of its clock; nothing for an address that is no server's."""
    import httpx

    if not url.startswith(("http://", "https://")):
        return [HealthCheck(name, Health.OK, f"no server: {mask(url)}")] if url else []
    shown = mask(url)
    try:
        answer = httpx.get(f"{url.rstrip('/')}{path}", timeout=TIMEOUT_S)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{shown}: {_one_line(error)}"
        return [HealthCheck(name, Health.BLOCKED, found, f"start the server, or check {variable} and the proxy")]
    if "date" not in answer.headers:
        return [HealthCheck(name, Health.OK, shown)]
    return [_with_clock(name, shown, parsedate_to_datetime(answer.headers["date"]))]


def _storages(settings: Settings) -> Iterator[tuple[str, str]]:
    """Name and address of every place in S3."""
    places = {
        "archive": settings.archive_url,
        "data": settings.data_url,
        "artifacts": settings.artifacts_url,
        "inbox": settings.inbox_url,
        "shadow": settings.shadow_url,
        "witness": settings.audit_witness,
    }
    return ((name, url) for name, url in places.items() if url.startswith("s3://"))


def check_storage(name: str, url: str, settings: Settings) -> list[HealthCheck]:
    """Whether the bucket is there for these credentials; nothing is written."""
    bucket = urlsplit(url).netloc
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        advice = "pip install 'shadowline[s3]'"
        return [HealthCheck(f"S3 {name}", Health.BLOCKED, f"{url}: boto3 is not installed", advice)]
    config = Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 1})
    try:
        boto3.client("s3", endpoint_url=settings.s3_endpoint, config=config).head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError, ValueError) as error:
        advice = "check the bucket, the AWS_ credentials and SHADOWLINE_S3_ENDPOINT"
        return [HealthCheck(f"S3 {name}", Health.BLOCKED, f"{url}: {_one_line(error)}", advice)]
    return [HealthCheck(f"S3 {name}", Health.OK, url)]


def _with_clock(name: str, shown: str, theirs: datetime) -> HealthCheck:
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart <= MAX_CLOCK_S:
        return HealthCheck(name, Health.OK, shown)
    found = f"{shown}: its clock and ours are {apart:.0f} s apart"
    return HealthCheck(name, Health.WARNING, found, "let both machines take their time from one server (NTP)")


# --- disk, rights, clock --------------------------------------------------------------------------------------------


def check_disks(layout: Layout) -> list[HealthCheck]:
    """Free space of the project and of the folder for temporary files."""
    import tempfile

    places = {"disk": layout.root.resolve(), "temporary files": Path(tempfile.gettempdir())}
    return [check_disk(name, place, shutil.disk_usage(place).free) for name, place in places.items()]


def check_disk(name: str, place: Path, free_bytes: int) -> HealthCheck:
    free_gb = free_bytes / 1e9
    found = f"{place}: {free_gb:.1f} GB free"
    if free_gb >= LOW_DISK_GB:
        return HealthCheck(name, Health.OK, found)
    health = Health.BLOCKED if free_gb < FULL_DISK_GB else Health.WARNING
    return HealthCheck(name, health, found, "make room, or use a larger disk")


def check_rights(layout: Layout, settings: Settings) -> Iterator[HealthCheck]:
    """Folders that are written to, where they are there already; and that nobody else reads the private keys."""
    folders = [layout.root, layout.root / "data", layout.root / "models", layout.root / ".dvc", layout.scratch]
    closed = [path for path in folders if path.exists() and not os.access(path, os.W_OK | os.X_OK)]
    if closed:
        names = ", ".join(str(path.resolve()) for path in closed)
        yield HealthCheck("permissions", Health.BLOCKED, f"not writable: {names}", "give this user the right to write")
    else:
        yield HealthCheck("permissions", Health.OK, "the project's folders are writable")
    keys = settings.audit_keys
    if keys.is_dir() and any(path.stat().st_mode & 0o077 for path in keys.glob("*.pem")):
        yield HealthCheck("audit keys", Health.WARNING, f"{keys}: others may read them", f"chmod go= {keys}/*.pem")


def check_history(layout: Layout) -> HealthCheck:
    """That the clock is not before the last change of the project's own files."""
    files = (layout.params, layout.root / "dvc.lock", layout.summary)
    changed = [path.stat().st_mtime for path in files if path.is_file()]
    now = datetime.now(UTC)
    return check_clock(now, datetime.fromtimestamp(max(changed), UTC) if changed else now)


def check_clock(now: datetime, last_change: datetime) -> HealthCheck:
    """A clock that is behind makes new evidence older than what is on record."""
    found = f"{now:%Y-%m-%d %H:%M} UTC"
    if (last_change - now).total_seconds() <= MAX_CLOCK_S:
        return HealthCheck("clock", Health.OK, found)
    found += f", before the project's last change at {last_change:%Y-%m-%d %H:%M} UTC"
    return HealthCheck("clock", Health.BLOCKED, found, "set the clock; new records would be older than those there")


def _one_line(error: object) -> str:
    return one_line(mask(str(error)))[:300] or type(error).__name__
