"""The only reader of environment variables: where things are kept and which addresses are used."""

import os
import secrets
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import MoescopeError


class Settings(BaseSettings):
    """Each field is read from MOESCOPE_<NAME>; a command line option of the same meaning wins."""

    model_config = SettingsConfigDict(
        env_prefix="MOESCOPE_", frozen=True, use_attribute_docstrings=True
    )

    home: Path = Path("~/.moescope")
    """Folder of the embedded store, the runs with their checkpoints, and the token."""
    store: str = ""
    """Store address, `sqlite:///FILE` or `postgresql://...`; empty means `store.db` in home."""
    mlflow: str = ""
    """MLflow address; empty: the server that `moescope up` announces, else a file in home."""
    notify: str = ""
    """apprise addresses that alerts are sent to, separated by blanks."""
    host: str = "127.0.0.1"
    """Address that the dashboard, MLflow and the page for Prometheus listen on."""
    dashboard_port: int = Field(default=8501, ge=1, le=65535)
    mlflow_port: int = Field(default=5501, ge=1, le=65535)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where Prometheus may scrape `/metrics`; none: nowhere."""
    token: str = ""
    """Of the operators, who look and act, in the dashboard; empty means the one kept in home."""
    viewer_token: str = ""
    """Of the viewers, who look; empty means the one kept in home. The page for Prometheus takes
    either."""
    dashboard_url: str = ""
    """Address at which people reach the dashboard, as that of a proxy: what links in alerts begin
    with, and whose host's name the dashboard answers to; empty: the service's own."""
    dashboard_store: str = ""
    """Address of the store for the dashboard's process, with a role of its own in PostgreSQL; empty
    means that of everybody."""
    mlflow_auth: Path | None = None
    """File with the settings of MLflow's sign-in (its `basic_auth.ini`); without one, the server of
    `moescope up` asks nobody who they are and stays on the loopback."""
    keep_vectors_days: float | None = Field(default=None, ge=0)
    """Days after which the service forgets vectors, as of `moescope db retain`; none: never."""
    keep_vectors_runs: int | None = Field(default=None, ge=0)
    """The newest runs that keep all their vectors; with `keep_vectors_days` both must be passed."""
    allow_network_store: bool = False
    """Whether an embedded store may lie on a network file system, where SQLite loses data."""

    @property
    def home_path(self) -> Path:
        return self.home.expanduser().absolute()

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{self.home_path / 'store.db'}"

    def make_home(self) -> Path:
        """Creates home and returns it. Raises MoescopeError where it cannot be written."""
        try:
            self.home_path.mkdir(parents=True, exist_ok=True)
            probe = self.home_path / f".writable-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MoescopeError(
                f"home folder {self.home_path} cannot be written ({error.strerror}): "
                "choose another with --home or MOESCOPE_HOME"
            ) from None
        return self.home_path

    def read_token(self) -> str:
        """Returns the operators' token; makes one in home (mode 600) where there is none."""
        return self.token or self._kept("token")

    def read_viewer_token(self) -> str:
        """Returns the viewers' token, as `read_token` does. Raises MoescopeError where it is the
        operators' too."""
        token = self.viewer_token or self._kept("viewer-token")
        if token == self.read_token():
            raise MoescopeError(
                "the viewers' token is the operators' token, so whoever may look may act: "
                "change MOESCOPE_VIEWER_TOKEN, or the file viewer-token in home"
            )
        return token

    def _kept(self, name: str) -> str:
        path = self.home_path / name
        if not path.exists():
            new = self.make_home() / f".{name}-{secrets.token_hex(4)}"
            new.touch(mode=0o600)
            new.write_text(secrets.token_urlsafe(24))
            # whole from its first moment, and never in place of one that another process just made
            try:
                os.link(new, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                new.replace(path)
            new.unlink(missing_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return path.read_text().strip()


def with_home(settings: Settings, home: Path | None) -> Settings:
    """Returns the settings with another home, as `--home` asks."""
    return settings if home is None else settings.model_copy(update={"home": home})
