"""The sink that mirrors a run into MLflow: parameters, tags, thinned numbers and files; one nested
MLflow run per segment, nested in its study's run where it is a trial.

What is sent of a frame says `mlflow_mirror/numbers_sent.py`. Only finite values are: an infinity
comes back as 1.8e308 and would ruin the chart's axis, and a NaN breaks the page. What was not
finite is a tag (`mlflow_mirror/non_finite.py`), and how much of it there was a metric.

The run of the whole carries, of each segment that has ended, the last value of a few scalars, with
the segment's index as MLflow's step: a list of runs then shows a loss, and no line goes back and
forth where a rollback repeats steps. It has the files, too: configuration, clips, accounts of
incidents, the checkpoints' manifest and the expert-load tables.

An MLflow run is found again by its tags, `moescope.run_id` and `moescope.segment`, so neither a
restart, nor a lost answer, nor another process makes it twice (`mlflow_mirror/one_run.py`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .mlflow_door import be_impatient, make_database, refusal
from .mlflow_mirror.files import RunFiles
from .mlflow_mirror.loads import ExpertLoads
from .mlflow_mirror.non_finite import NonFinite
from .mlflow_mirror.numbers_sent import NumbersSent, ends_of
from .mlflow_mirror.pages import (
    CHECKPOINTS,
    CONFIG,
    checkpoint_page,
    checkpoint_row,
    checkpoint_rows,
    incident_files,
    json_page,
)
from .mlflow_mirror.runs import TAG_LENGTH, MirroredRuns
from .record_codec import Record
from .records import (
    Alert,
    Checkpoint,
    DamagedConfig,
    Event,
    Frame,
    Incident,
    Run,
    RunStatus,
    Segment,
    Trial,
)
from .sink_thread import RecordRefused

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

STATUSES: Mapping[RunStatus, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "crashed": "FAILED",
    "halted": "FAILED",
}
"""{how a run ended: how MLflow calls it}"""
_METRICS_PER_REQUEST = 900
_MOST_ALERTS = 200


class MlflowSink:
    """Writes to an MLflow server, or into the database file of one that is not up.

    MLflow is imported and reached in the sink's own thread only, and each request gives up after a
    few seconds. Any record may be written any number of times. After a kill, numbers of the last
    second or so may be thinned differently when they are replayed.
    """

    name = "mlflow"

    def __init__(
        self,
        tracking_url: str,
        run: Run,
        dashboard_url: str = "",
        status: Callable[[], RunStatus] | None = None,
        trial: Trial | None = None,
    ) -> None:
        """dashboard_url: where this run can be seen live, without a token; kept as a tag and in the
        description. status: asked when the sink closes how the run ended, where `running` means
        that its process ends without a word; else the run's record says how. trial: the trial of a
        study that the run is.
        """
        self._url = tracking_url
        self._run = run
        self._dashboard_url = dashboard_url
        self._status = status
        self._trial = trial
        self._client: MlflowClient | None = None
        self._runs: MirroredRuns | None = None
        self._files = RunFiles(tracking_url)
        self._sent = NumbersSent()
        self._non_finite: dict[int, NonFinite] = {}
        self._loads = ExpertLoads()
        # of each segment that the run of the whole does not show yet
        self._last: dict[int, dict[str, Metric]] = {}
        self._checkpoints: dict[tuple[int, int], dict[str, Any]] = {}
        # for the titles of incidents
        self._alerts: dict[str, Alert] = {}

    def prepare(self) -> None:
        """Makes the database file if the address is one that is not there; `write` does so too."""
        make_database(self._url)

    def write(self, records: Sequence[Record]) -> None:
        """Writes all records, with one request per segment. Raises whatever MLflow raises,
        RecordRefused, or MoescopeError where it lets nobody in.
        """
        from mlflow.exceptions import MlflowException

        try:
            client, runs = self._open()
            self._write(client, runs, records)
        except MlflowException as error:
            if (told := refusal(error, self._url)) is not None:
                raise told from None
            is_gone = "must be in the 'active' state" in str(error)
            if error.error_code == "INVALID_PARAMETER_VALUE" and not is_gone:
                raise RecordRefused(str(error)) from error
            # the run may have been deleted there: look for it again
            self._runs = None
            self._non_finite.clear()
            raise

    def close(self) -> None:
        """Marks the newest segment's run and the whole run as ended, in the way the run has."""
        if self._client is None or self._runs is None:
            return
        runs = self._runs
        self._show_ends(self._client, runs, list(self._last))
        for name, text in self._loads.due(runs.newest_segment, is_closing=True):
            self._files.put(name, text)
        self._files.send()
        ended: RunStatus = self._run.status
        if self._status is not None:
            ended = self._status()
            ended = "crashed" if ended == "running" else ended
        if ended == "running":
            return  # a record of a run that nobody has seen end
        runs.end(STATUSES[ended], None if self._status is not None else self._run.finished_s)

    def _write(self, client: "MlflowClient", runs: MirroredRuns, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Segment):
                runs.say_segment(record)
            elif isinstance(record, Alert):
                self._write_alert(client, runs, record)
            elif isinstance(record, Event):
                self._put_samples(record)
        frames = [record for record in records if isinstance(record, Frame)]
        sent = self._sent.copy()
        metrics: dict[int, list[Metric]] = {}
        for frame in frames:
            metrics.setdefault(frame.segment, []).extend(sent.metrics(frame))
            self._last.setdefault(frame.segment, {}).update(ends_of(frame))
            self._non_finite_of(runs, frame.segment).take(frame)
            self._loads.take(frame)
        for segment, found in metrics.items():
            self._log(client, runs, segment, found)
        newest = max(runs.newest_segment, max(metrics, default=-1))
        self._show_ends(client, runs, [segment for segment in self._last if segment < newest])
        self._put_accounts(records)
        for name, text in self._loads.due(newest):
            self._files.put(name, text)
        self._files.send()
        # only now: the same records must be thinned alike when they come again
        self._sent = sent

    def _log(
        self, client: "MlflowClient", runs: MirroredRuns, segment: int, metrics: "list[Metric]"
    ) -> None:
        """Sends a segment's numbers, and what was not finite."""
        run_id = runs.segment_id(segment)
        for i in range(0, len(metrics), _METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics=metrics[i : i + _METRICS_PER_REQUEST])
        non_finite = self._non_finite_of(runs, segment)
        runs.tag(run_id, non_finite.unsent())
        non_finite.sent()

    def _non_finite_of(self, runs: MirroredRuns, segment: int) -> NonFinite:
        if segment not in self._non_finite:
            self._non_finite[segment] = NonFinite(lambda: runs.tags_of(segment))
        return self._non_finite[segment]

    def _write_alert(self, client: "MlflowClient", runs: MirroredRuns, alert: Alert) -> None:
        text = f"{alert.severity} from step {alert.onset_step}: {alert.message}"
        key = f"alert.{alert.rule}.{alert.fired_step}"
        client.set_tag(runs.segment_id(alert.segment), key, text[:TAG_LENGTH])
        self._alerts[alert.id] = alert
        if len(self._alerts) > _MOST_ALERTS:
            del self._alerts[next(iter(self._alerts))]

    def _put_samples(self, event: Event) -> None:
        """Gives the run of the whole the clips that an event tells of; those gone since are not
        missed, and the same ones again replace themselves."""
        for file in event.details.get("samples", ()):
            path = Path(file)
            if path.is_file():
                self._files.put(f"samples/{path.parent.name}/{path.name}", path)

    def _put_accounts(self, records: Sequence[Record]) -> None:
        """Puts what is known of incidents and checkpoints; the manifest goes on from the one that
        an earlier process has written."""
        for record in records:
            if isinstance(record, Incident):
                alert = self._alerts.get(record.alert_id)
                for name, text in incident_files(record, alert).items():
                    self._files.put(name, text)
            elif isinstance(record, Checkpoint):
                self._checkpoints[(record.segment, record.step)] = checkpoint_row(record)
                self._files.put(CHECKPOINTS, self._manifest)

    def _manifest(self, text: str) -> str:
        return checkpoint_page({**checkpoint_rows(text), **self._checkpoints})

    def _show_ends(
        self, client: "MlflowClient", runs: MirroredRuns, segments: Sequence[int]
    ) -> None:
        """Gives the run of the whole the last values of these segments; twice changes nothing."""
        ends = [metric for segment in segments for metric in self._last[segment].values()]
        if ends:
            client.log_batch(runs.whole_id, metrics=ends)
        for segment in segments:
            del self._last[segment]

    def _open(self) -> "tuple[MlflowClient, MirroredRuns]":
        if self._client is None:
            be_impatient()
            make_database(self._url)
            from mlflow import MlflowClient

            # migrations of a new database file would tell their story into the progress line
            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = MlflowClient(tracking_uri=self._url)
        if self._runs is None:
            self._runs = MirroredRuns(
                self._client,
                self._url,
                self._run,
                self._dashboard_url,
                self._trial,
                is_living=self._status is not None or self._run.status == "running",
            )
            self._files.belong_to(self._client, self._runs.whole_id)
            if not isinstance(self._run.config, DamagedConfig):
                self._files.put(CONFIG, json_page(self._run.config))
        return self._client, self._runs
