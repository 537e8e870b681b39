"""The files of one MLflow run: they follow the numbers, and never hold them up for long."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ..mlflow_door import ARTIFACTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TRIES = 3
_AGAIN_S = 60.0

_log = logging.getLogger(__name__)


class FilesNotTaken(Exception):
    """MLflow, or the place that it keeps files in, did not take a file."""


Content = str | Path | Callable[[str], str]
"""A text, a file to copy, or what makes a text of the one that is there, which may be empty."""


class RunFiles:
    """Files wait here by name until they are sent; a later one of a name takes its place."""

    def __init__(self, tracking_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client: MlflowClient
        self._run_id = ""
        self._url = tracking_url
        self._clock = clock
        self._place: str | None = None
        self._waiting: dict[str, Content] = {}
        self._num_failures = 0
        self._not_before_s = -1.0

    def belong_to(self, client: "MlflowClient", run_id: str) -> None:
        """Says which run the files are of; what waits goes there."""
        self._client, self._run_id, self._place = client, run_id, None

    def put(self, name: str, content: Content) -> None:
        """name: `folder/file`."""
        self._waiting[name] = content

    def send(self) -> None:
        """Sends what waits. Raises FilesNotTaken, so that it comes again; but where MLflow takes
        numbers and for the third time no file, files wait and numbers go on."""
        if not self._waiting or self._clock() < self._not_before_s:
            return
        try:
            for name, content in list(self._waiting.items()):
                self._send(name, content)
                del self._waiting[name]
        except Exception as error:
            self._num_failures += 1
            if self._num_failures < _TRIES:
                raise FilesNotTaken(f"{type(error).__name__}: {error}") from error
            if self._num_failures == _TRIES:
                _log.warning("MLflow takes numbers but no files, which wait: %s", error)
            self._not_before_s = self._clock() + _AGAIN_S
            return
        self._num_failures = 0

    def _send(self, name: str, content: Content) -> None:
        if isinstance(content, Path) and not content.is_file():
            return  # gone since
        folder = self._own_folder()
        if folder is None and self._is_closed:
            return
        if not isinstance(content, str | Path):
            content = content(self._read(name, folder))
        if folder is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_text(content)
        elif isinstance(content, str):
            self._client.log_text(self._run_id, content, name)
        else:
            self._client.log_artifact(self._run_id, str(content), str(Path(name).parent))

    def _read(self, name: str, folder: Path | None) -> str:
        """The text of a file at the top; empty where there is none."""
        if folder is not None:
            path = folder / name
            return path.read_text() if path.is_file() else ""
        if all(file.path != name for file in self._client.list_artifacts(self._run_id)):
            return ""
        with tempfile.TemporaryDirectory() as here:
            return Path(self._client.download_artifacts(self._run_id, name, here)).read_text()

    @property
    def _is_closed(self) -> bool:
        """Whether only a server takes files, and we write into its database: it is not up."""
        return self._uri().startswith("mlflow-artifacts:") and self._url.startswith("sqlite:")

    def _own_folder(self) -> Path | None:
        """Where the service's own server keeps the run's files, if that is not up and has any."""
        if not self._is_closed:
            return None
        beside = Path(self._url.removeprefix("sqlite:///")).absolute().parent / ARTIFACTS
        return beside / unquote(urlsplit(self._uri()).path).lstrip("/") if beside.is_dir() else None

    def _uri(self) -> str:
        if self._place is None:
            self._place = str(self._client.get_run(self._run_id).info.artifact_uri)
        return self._place
