"""`moescope doctor`: what is here, what is missing, and what to do about it. Changes nothing and
never raises.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sqlalchemy import create_engine, text

from .announcement import living_service
from .engines import Database, masked, parsed_url, shown_url
from .errors import MoescopeError
from .migrate import checked_version, versions
from .network_store import refuse_network_store
from .precision import policy_of
from .settings import Settings

FREE_GIB = 2.0
"""Below this much free disk a run's checkpoints soon find no room."""
_TORCH = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({
    "threads": torch.get_num_threads(),
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else
    [], "cuda": torch.version.cuda,
}))
"""
_CODECS = {
    "h264": ("read", "write"),
    "aac": ("read", "write"),
    "vp9": ("read",),
    "opus": ("read",),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Finding:
    name: str
    state: Literal["good", "optional", "bad"]
    """optional: missing, but only a part of moescope needs it."""
    what: str
    """What was found."""
    todo: str
    """What to do; empty where all is well."""


def examine(settings: Settings) -> list[Finding]:
    """Looks at everything that moescope uses, one finding each; takes some seconds, most of it for
    importing torch.
    """
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("torch", _torch),
        ("device", _device),
        ("codecs", _codecs),
        ("home", lambda: _home(settings)),
        ("disk", lambda: _disk(settings)),
        ("database", lambda: _database(settings)),
        ("mlflow", lambda: _mlflow(settings)),
        ("service", lambda: _service(settings)),
        ("alerts", lambda: _alerts(settings)),
        ("browser", _browser),
    ]
    findings = []
    for name, look in looks:
        try:
            findings.append(look())
        except Exception as error:  # a broken installation is what a doctor is for
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            findings.append(Finding(name, "bad", what, "install moescope anew: pip install -e ."))
    return findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "good", f"{found} at {sys.executable}", "")


def _torch() -> Finding:
    if find_spec("torch") is None:
        return Finding(
            "torch",
            "bad",
            "not installed",
            "pip install -c constraints.txt torch; nothing trains without it",
        )
    return Finding("torch", "good", version("torch"), "")


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding("device", "bad", "unknown without torch", "install torch first")
    # in a process of its own: torch takes seconds and half a gigabyte
    asked = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=False
    )
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Finding(
            "device",
            "bad",
            f"torch cannot be imported: {last}",
            "pip install --force-reinstall torch",
        )
    found = json.loads(asked.stdout.strip().splitlines()[-1])
    if found["gpus"]:
        names = f"{', '.join(found['gpus'])} (CUDA {found['cuda']})"
        return Finding("device", "good", f"{names}; {_precision('cuda')}", "")
    if shutil.which("nvidia-smi"):
        return Finding(
            "device",
            "bad",
            "an NVIDIA driver is here, but torch sees no GPU",
            "install a CUDA build of torch that suits the driver (see nvidia-smi)",
        )
    return Finding(
        "device",
        "good",
        f"{os.cpu_count()} processors, no GPU; {_precision('cpu')}",
        "the recipe tiny trains on processors; others want a GPU",
    )


def _precision(device: str) -> str:
    return f"trains with {policy_of('auto', device)}"


def _codecs() -> Finding:
    if find_spec("av") is None:
        return Finding(
            "codecs", "bad", "PyAV is not installed", "pip install -c constraints.txt av"
        )
    import av
    from av.codec import Codec

    missing = []
    for name, ways in _CODECS.items():
        for way in ways:
            try:
                Codec(name, "r" if way == "read" else "w")
            except ValueError:
                missing.append(f"{way} {name}")
    if missing:
        return Finding(
            "codecs",
            "bad",
            f"PyAV {av.__version__} cannot {', '.join(missing)}",
            "install the wheel of PyAV from the package index: pip install --force-reinstall av",
        )
    return Finding("codecs", "good", f"PyAV {av.__version__}: H.264, AAC, VP9, Opus", "")


def _home(settings: Settings) -> Finding:
    try:
        return Finding("home", "good", str(settings.make_home()), "")
    except MoescopeError as error:
        return Finding("home", "bad", str(error), "choose another with --home or MOESCOPE_HOME")


def _disk(settings: Settings) -> Finding:
    folder = settings.home_path
    while not folder.exists():
        folder = folder.parent
    free_gib = shutil.disk_usage(folder).free / 2**30
    what = f"{free_gib:.1f} GiB free at {folder}"
    if free_gib < FREE_GIB:
        return Finding("disk", "bad", what, f"free some: at least {FREE_GIB:g} GiB for checkpoints")
    return Finding("disk", "good", what, "")


def _database(settings: Settings) -> Finding:
    try:
        url = parsed_url(settings.store_url)
    except MoescopeError as error:
        return Finding("database", "bad", str(error), "set MOESCOPE_STORE or --store")
    shown = shown_url(url)
    if url.get_backend_name() == "sqlite":
        return _embedded(Path(url.database or ""), shown, settings.store_url)
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SHOW server_version")).scalar_one()
            is_read_only = connection.execute(text("SHOW transaction_read_only")).scalar_one()
    except Exception as error:
        why = " ".join(str(getattr(error, "orig", error)).split())
        return Finding(
            "database",
            "bad",
            f"{shown}: {why}",
            "start the server, or check address, user and password in MOESCOPE_STORE",
        )
    finally:
        engine.dispose()
    if is_read_only == "on":
        return Finding("database", "bad", f"{shown} is read-only", "use the primary server")
    return _version(settings.store_url) or Finding(
        "database", "good", f"{shown}, PostgreSQL {found}", ""
    )


def _version(store_url: str) -> Finding | None:
    """What is wrong with the version of a store that can be read; None where nothing is."""
    database = Database(store_url, patience_s=2.0)
    try:
        found = checked_version(database)
    except MoescopeError as error:
        return Finding("database", "bad", str(error), "update moescope or use another --store")
    finally:
        database.close()
    needed = versions()[-1]
    if database.is_embedded or found in ("", needed):
        return None  # brought up to date when it is next opened
    what = f"{database.shown} is at version {found}, this program needs {needed}"
    return Finding("database", "bad", what, "moescope db upgrade")


def _embedded(path: Path, shown: str, store_url: str) -> Finding:
    try:
        refuse_network_store(path)
    except MoescopeError as error:
        return Finding("database", "bad", str(error), "set MOESCOPE_STORE or --store")
    if not path.exists():
        folder = path.parent
        if folder.exists() and not os.access(folder, os.W_OK):
            return Finding(
                "database", "bad", f"{folder} cannot be written", "choose another with --store"
            )
        return Finding("database", "good", f"{shown}: made when first used", "")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=2)
    try:
        fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    except sqlite3.Error as error:
        return Finding(
            "database",
            "bad",
            f"{shown}: {error}",
            "end what locks it, make file and folder writable, or restore a backup",
        )
    finally:
        connection.close()
    if fault != "ok":
        return Finding(
            "database",
            "bad",
            f"{shown} is damaged: {fault}",
            "restore a backup (`moescope db backup`)",
        )
    size_mib = path.stat().st_size / 2**20
    return _version(store_url) or Finding(
        "database", "good", f"{shown}, {size_mib:.1f} MiB, SQLite {sqlite3.sqlite_version}", ""
    )


def _mlflow(settings: Settings) -> Finding:
    try:
        found = version("mlflow")
    except PackageNotFoundError:
        return Finding(
            "mlflow", "optional", "not installed", "pip install -c constraints.txt mlflow"
        )
    if settings.mlflow == "off":
        return Finding("mlflow", "good", f"{found}; switched off", "")
    service = living_service(settings.home_path)
    address = settings.mlflow or (service.mlflow_url if service else "")
    if not address:
        return Finding(
            "mlflow",
            "good",
            f"{found}; no server: runs write a file",
            "moescope up starts a server",
        )
    shown = masked(address)
    if address.startswith("sqlite:///"):
        return Finding("mlflow", "good", f"{found}; {shown}", "")
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if not address.startswith(("http://", "https://")) or not host:
        return Finding(
            "mlflow",
            "bad",
            f"MOESCOPE_MLFLOW is {shown}, which names neither a server nor a file",
            "set it to off, http://HOST:PORT, https://HOST or sqlite:///FILE",
        )
    try:
        with socket.create_connection((host, port), timeout=3):
            return Finding("mlflow", "good", f"{found}; server at {shown}", "")
    except OSError as error:
        return Finding(
            "mlflow",
            "optional",
            f"{found}; {shown} does not answer ({error})",
            "start the server or set MOESCOPE_MLFLOW; the journal keeps what is to be sent",
        )


def _service(settings: Settings) -> Finding:
    service = living_service(settings.home_path)
    if service is None:
        return Finding("service", "optional", "not running", "moescope up shows runs in a browser")
    return Finding(
        "service", "good", f"process {service.pid}, dashboard at {service.dashboard_url}", ""
    )


def _alerts(settings: Settings) -> Finding:
    from .delivery import Deliverer

    urls = settings.notify.split()
    try:
        Deliverer(urls)
    except MoescopeError as error:
        return Finding("alerts", "bad", str(error), "mend MOESCOPE_NOTIFY")
    if not urls:
        return Finding(
            "alerts",
            "optional",
            "shown in the dashboard only",
            "set MOESCOPE_NOTIFY to apprise addresses to have them sent",
        )
    if failures := _undelivered(settings):
        what = f"{len(failures)} alert(s) of the last day could not be sent: {failures[-1]}"
        return Finding("alerts", "bad", what, "mend it and try `moescope alerts test-channel`")
    return Finding("alerts", "good", f"sent to {len(urls)} address(es)", "")


def _undelivered(settings: Settings) -> list[str]:
    """Why alerts of the last day were not sent; empty where there is no store that can be read."""
    from .store import Store

    file = settings.store_url.removeprefix("sqlite:///")
    if file != settings.store_url and not Path(file).is_file():
        return []
    database = Database(settings.store_url, patience_s=2.0)
    try:
        if checked_version(database) != versions()[-1]:
            return []
        failures = Store(database).delivery_failures(since_s=time.time() - 86400.0)
    except MoescopeError:
        return []  # `database` says so
    finally:
        database.close()
    return list(failures.values())


def _browser() -> Finding:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        return Finding(
            "browser",
            "optional",
            "no Chromium",
            "only the browser tests need it: apt install chromium",
        )
    return Finding("browser", "good", found, "")
