"""The processes that the service starts: the dashboard's and MLflow's, with what each may know."""

import socket
import sys
from pathlib import Path
from secrets import token_hex

from .children import Child
from .errors import MoescopeError
from .mlflow_door import ARTIFACTS
from .settings import Settings


def dashboard_server(settings: Settings, store_url: str, home: Path, port: int) -> Child:
    """The dashboard, behind its door; it knows the tokens and one address of the store."""
    door = Path(__file__).parent.parent / "dashboard" / "door.py"
    command = [
        *(sys.executable, "-m", "streamlit", "run", str(door)),
        *("--server.headless", "true"),
        *("--server.address", settings.host),
        *("--server.port", str(port)),
        *("--server.fileWatcherType", "none"),
        *("--browser.gatherUsageStats", "false"),
        # the door before it knows the names, and looks at all that comes in
        *("--server.allowedHosts", "*"),
    ]
    environment = {
        "MOESCOPE_HOME": str(home),
        # with a role of its own the process knows nobody else's password
        "MOESCOPE_STORE": settings.dashboard_store or store_url,
        "MOESCOPE_DASHBOARD_STORE": "",
        "MOESCOPE_NOTIFY": "",
        "MOESCOPE_TOKEN": settings.read_token(),
        "MOESCOPE_VIEWER_TOKEN": settings.read_viewer_token(),
        "MOESCOPE_HOST": settings.host,
        "MOESCOPE_DASHBOARD_URL": settings.dashboard_url,
    }
    return Child("dashboard", command, environment, home / "logs" / "dashboard.log")


def mlflow_host_of(settings: Settings) -> str:
    """Where MLflow's server listens: whoever reaches it may read and delete all, so it goes beyond
    the loopback only with a sign-in of its own."""
    is_loopback = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    return settings.host if is_loopback or settings.mlflow_auth else "127.0.0.1"


def mlflow_server(host: str, home: Path, port: int, auth: Path | None = None) -> Child:
    """MLflow with a database of its own: its tables `runs` and `alembic_version` would collide with
    ours. auth: the settings of its sign-in; None: there is none.

    Raises MoescopeError where the settings of the sign-in are not there.
    """
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", host),
        *("--port", str(port)),
        # 2 processes and 0.5 GB in place of 15 and 3.1 (facts: ecosystem.md 2)
        *("--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
        *("--artifacts-destination", str(home / ARTIFACTS)),
    ]
    shown = shown_host(host)
    if shown != host or not host.startswith("127."):
        names = ("localhost", "127.0.0.1", host, shown)
        command += ["--allowed-hosts", ",".join(f"{n},{n}:*" for n in dict.fromkeys(names))]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if auth is not None:
        path = auth.expanduser().absolute()
        if not path.is_file():
            raise MoescopeError(
                f"MLflow's sign-in {path} is not there: write it after MLflow's basic_auth.ini, or "
                "leave MOESCOPE_MLFLOW_AUTH out"
            )
        command += ["--app-name", "basic-auth"]
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(path)
        # it signs sessions, which need not outlive the server
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = token_hex(32)
    return Child("MLflow", command, environment, home / "logs" / "mlflow.log")


def shown_host(host: str) -> str:
    """The name under which what listens there is reached."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
