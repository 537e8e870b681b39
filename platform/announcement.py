"""What a running service tells others of its home: a small file with its addresses, which nobody
needs to be up for.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .settings import Settings


@dataclass(frozen=True, slots=True)
class Announcement:
    dashboard_url: str
    """Without a token: it is passed on, to MLflow for one."""
    mlflow_url: str
    pid: int
    started_s: float
    """When that process was started; with the pid it names one process for good."""
    children: tuple[tuple[int, float], ...] = ()
    """(pid, started) of what the service has started."""


def announce(home: Path, announcement: Announcement) -> None:
    """Writes the file, readable to its owner only, in one piece."""
    new = home / "service.json.new"
    new.touch(mode=0o600)
    new.write_text(json.dumps(asdict(announcement), indent=2))
    new.replace(_path(home))


def announced(home: Path) -> Announcement | None:
    """Returns what the service of this home last said, alive or not; None where none ever did."""
    try:
        kept = json.loads(_path(home).read_text())
        children = tuple((int(pid), float(started)) for pid, started in kept.pop("children", ()))
        return Announcement(**kept, children=children)
    except (OSError, ValueError, TypeError):
        return None


def is_alive(pid: int, started_s: float) -> bool:
    """Whether that very process still runs; its number in another process does not count."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started_s) < 1.0
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def living_service(home: Path) -> Announcement | None:
    """Returns the announcement of a service that is alive."""
    found = announced(home)
    return found if found is not None and is_alive(found.pid, found.started_s) else None


def own_process() -> tuple[int, float]:
    """Returns (pid, started) of this process."""
    return os.getpid(), psutil.Process().create_time()


def mlflow_address(settings: Settings) -> str:
    """Returns where a trainer writes to MLflow: as set, else the living service's server, else a
    file in home.
    """
    if settings.mlflow:
        return settings.mlflow
    service = living_service(settings.home_path)
    return service.mlflow_url if service else f"sqlite:///{settings.home_path / 'mlflow.db'}"


def dashboard_address(settings: Settings) -> str:
    """Returns the dashboard as people reach it, without a token: as set, else the living service's;
    empty where there is none."""
    if settings.dashboard_url:
        return settings.dashboard_url.rstrip("/")
    service = living_service(settings.home_path)
    return service.dashboard_url if service else ""


def _path(home: Path) -> Path:
    return home / "service.json"
