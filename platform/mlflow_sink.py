"""The sink that mirrors a run into MLflow: parameters, tags and thinned scalars, one nested MLflow
run per segment.

MLflow takes some thousand numbers a second at a core's expense and stores each in some hundred
bytes, so it is offered at most `NUMBERS_PER_S`, never a number per expert. Only finite
values are sent: an infinity comes back as 1.8e308 and would ruin the chart's axis; how many were
not finite is a metric of its own.

The run of the whole carries, of each segment that has ended, the last value of a few scalars, with
the segment's index as MLflow's step: a list of runs then shows a loss, and no line goes back and
forth where a rollback repeats steps.

An MLflow run is found again by its tags, `moescope.run_id` and `moescope.segment`, which are set in
the request that makes it; so neither a restart nor a lost answer makes it twice.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalogue import GRAD_NORM, LOSS_SPIKE_SCORE, LOSS_TOTAL, TOKENS_PER_S, signal_spec
from .mlflow_door import be_impatient, experiment_of, find_or_create, make_database
from .record_codec import Record
from .records import Alert, Event, Frame, Run, RunStatus, Segment
from .signals.spec import Tier
from .sink_thread import RecordRefused

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

NUMBERS_PER_S = 100.0
"""Most numbers sent per second of training (facts: tracking.md 5.8)."""
NON_FINITE = "moescope/non_finite"
"""MLflow metric: how many scalars of the step were not finite."""
SHOWN_OF_A_RUN = (LOSS_TOTAL, LOSS_SPIKE_SCORE, GRAD_NORM, TOKENS_PER_S)
"""Scalars whose last values the run of the whole carries."""
STATUSES: Mapping[RunStatus, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "crashed": "FAILED",
    "halted": "FAILED",
}
"""{how a run ended: how MLflow calls it}"""
_SHARES: Mapping[Tier, float] = {"step": 0.7, "sampled": 0.1, "system": 0.1, "user": 0.1}
# how many seconds' worth may come at once
_BURST_S = 2.0
_METRICS_PER_REQUEST = 1000
_PARAMS_PER_REQUEST = 100
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000


class MlflowSink:
    """Writes to an MLflow server, or into the database file of one that is not up.

    MLflow is imported and reached in the sink's own thread only, and each request gives up after a
    few seconds. Segments and alerts may be written any number of times. After a kill, numbers of
    the last second or so may be thinned differently when they are replayed.
    """

    name = "mlflow"

    def __init__(
        self,
        tracking_url: str,
        run: Run,
        dashboard_url: str = "",
        status: Callable[[], RunStatus] | None = None,
    ) -> None:
        """dashboard_url: where this run can be seen live, without a token; kept as a tag and in the
        description. status: asked when the sink closes how the run ended, where `running` means
        that its process ends without a word; else the run's record says how.
        """
        self._url = tracking_url
        self._run = run
        self._dashboard_url = dashboard_url
        self._status = status
        self._client: MlflowClient | None = None
        self._parent_id = ""
        self._segment_ids: dict[int, str] = {}
        self._newest_segment = -1
        self._free_from_s: dict[Tier, float] = {}
        # of each segment that the run of the whole does not show yet
        self._last: dict[int, dict[str, Metric]] = {}

    def prepare(self) -> None:
        """Makes the database file if the address is one that is not there; `write` does so too."""
        make_database(self._url)

    def write(self, records: Sequence[Record]) -> None:
        """Writes all records, with one request per segment. Raises whatever MLflow raises, or
        RecordRefused.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._write(records)
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise RecordRefused(str(error)) from error
            # the run may have been deleted there: look for it again
            self._parent_id = ""
            self._segment_ids.clear()
            raise

    def close(self) -> None:
        """Marks the newest segment's run and the whole run as ended, in the way the run has."""
        if self._client is None or not self._parent_id:
            return
        self._show_ends(self._client, list(self._last))
        ended: RunStatus = self._run.status
        if self._status is not None:
            ended = self._status()
            ended = "crashed" if ended == "running" else ended
        if ended == "running":
            return  # a record of a run that nobody has seen end
        for run_id in (self._segment_ids.get(self._newest_segment), self._parent_id):
            if run_id:
                self._client.set_terminated(run_id, STATUSES[ended])

    def _write(self, records: Sequence[Record]) -> None:
        client = self._open()
        for record in records:
            if isinstance(record, Segment):
                self._write_segment(client, record)
            elif isinstance(record, Alert):
                text = f"{record.severity} from step {record.onset_step}: {record.message}"
                key = f"alert.{record.rule}.{record.fired_step}"
                client.set_tag(self._segment_id(client, record.segment), key, text[:_TAG_LENGTH])
            elif isinstance(record, Event):
                self._write_samples(client, record)
        free_from_s = dict(self._free_from_s)
        metrics: dict[int, list[Metric]] = {}
        for record in records:
            if isinstance(record, Frame):
                metrics.setdefault(record.segment, []).extend(_metrics(record, free_from_s))
                self._last.setdefault(record.segment, {}).update(_shown(record))
        for segment, found in metrics.items():
            run_id = self._segment_id(client, segment)
            for i in range(0, len(found), _METRICS_PER_REQUEST):
                client.log_batch(run_id, metrics=found[i : i + _METRICS_PER_REQUEST])
        newest = max(self._newest_segment, max(metrics, default=-1))
        self._show_ends(client, [segment for segment in self._last if segment < newest])
        # only now: the same records must be thinned alike when they come again
        self._free_from_s = free_from_s

    def _write_samples(self, client: "MlflowClient", event: Event) -> None:
        """Gives the run of the whole the clips that an event tells of; those gone since are not
        missed, and the same ones again replace themselves. Where only a server takes files and none
        is up, they stay in the run's folder alone: numbers must not wait for them."""
        files = event.details.get("samples", ())
        if not files:
            return
        place = str(client.get_run(self._parent_id).info.artifact_uri)
        if place.startswith("mlflow-artifacts:") and self._url.startswith("sqlite:"):
            return
        for file in files:
            path = Path(file)
            if path.is_file():
                client.log_artifact(self._parent_id, str(path), f"samples/{path.parent.name}")

    def _show_ends(self, client: "MlflowClient", segments: Sequence[int]) -> None:
        """Gives the run of the whole the last values of these segments; twice changes nothing."""
        ends = [metric for segment in segments for metric in self._last[segment].values()]
        if ends:
            client.log_batch(self._parent_id, metrics=ends)
        for segment in segments:
            del self._last[segment]

    def _open(self) -> "MlflowClient":
        if self._client is None:
            be_impatient()
            make_database(self._url)
            from mlflow import MlflowClient

            # migrations of a new database file would tell their story into the progress line
            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = MlflowClient(tracking_uri=self._url)
        if not self._parent_id:
            self._parent_id = self._open_parent(self._client)
        return self._client

    def _open_parent(self, client: "MlflowClient") -> str:
        run = self._run
        experiment_id = experiment_of(client, run.project, self._url)
        tags = {"moescope.run_id": run.id, "moescope.segment": "all"}
        run_id = find_or_create(client, experiment_id, tags, run.name)
        more = {
            "moescope.device": run.device,
            "moescope.code_version": run.code_version,
            "moescope.folder": run.folder,
            "moescope.tags": ", ".join(run.tags),
        }
        if self._dashboard_url:
            more["moescope.dashboard"] = self._dashboard_url
            more["mlflow.note.content"] = f"Live, with every expert: {self._dashboard_url}"
        from mlflow.entities import Param, RunTag

        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in more.items() if value])
        known = client.get_run(run_id).data.params
        # a resume may have changed some: MLflow's parameters never change, the segment's tags tell
        new = [
            Param(key, value[:_PARAM_LENGTH])
            for key, value in _flat(run.config)
            if key not in known
        ]
        for i in range(0, len(new), _PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=new[i : i + _PARAMS_PER_REQUEST])
        client.update_run(run_id, status="RUNNING")
        self._experiment_id = experiment_id
        return run_id

    def _segment_id(self, client: "MlflowClient", index: int) -> str:
        if index not in self._segment_ids:
            tags = {
                "moescope.run_id": self._run.id,
                "moescope.segment": str(index),
                "mlflow.parentRunId": self._parent_id,
            }
            name = f"{self._run.name} segment {index}"
            self._segment_ids[index] = find_or_create(client, self._experiment_id, tags, name)
            if index > self._newest_segment:
                for older, run_id in self._segment_ids.items():
                    if older < index:
                        client.set_terminated(run_id)
                self._newest_segment = index
        return self._segment_ids[index]

    def _write_segment(self, client: "MlflowClient", segment: Segment) -> None:
        from mlflow.entities import RunTag

        tags = {"moescope.reason": segment.reason, "moescope.start_step": str(segment.start_step)}
        if segment.parent_segment is not None:
            tags["moescope.parent"] = (
                f"segment {segment.parent_segment}, step {segment.parent_step}"
            )
        for key, (old, new) in segment.changes.items():
            tags[f"moescope.changed.{key}"] = f"{old} -> {new}"[:_TAG_LENGTH]
        client.log_batch(
            self._segment_id(client, segment.index), tags=[RunTag(k, v) for k, v in tags.items()]
        )


def _metrics(frame: Frame, free_from_s: dict[Tier, float]) -> "list[Metric]":
    """Returns what is sent of a frame, and moves on the time from which each tier may send again.

    Each tier has its share of NUMBERS_PER_S: a frame with n numbers keeps its tier busy for n /
    rate seconds. The slow tier is rare and always sent.
    """
    from mlflow.entities import Metric

    by_tier: dict[Tier, dict[str, float]] = {}
    for name, value in frame.values.items():
        if value.ndim == 0:
            by_tier.setdefault(signal_spec(name).tier, {})[name] = float(value)
    chosen: dict[str, float] = {}
    for tier, values in by_tier.items():
        if tier in _SHARES:
            free_s = free_from_s.get(tier, 0.0)
            if frame.time_s < free_s:
                continue
            start_s = max(free_s, frame.time_s - _BURST_S)
            free_from_s[tier] = start_s + len(values) / (NUMBERS_PER_S * _SHARES[tier])
        chosen |= {name: value for name, value in values.items() if math.isfinite(value)}
    num_bad = sum(not math.isfinite(v) for values in by_tier.values() for v in values.values())
    if num_bad:
        chosen[NON_FINITE] = float(num_bad)
    time_ms = int(frame.time_s * 1000)
    return [Metric(name, value, time_ms, frame.step) for name, value in chosen.items()]


def _shown(frame: Frame) -> "dict[str, Metric]":
    from mlflow.entities import Metric

    time_ms = int(frame.time_s * 1000)
    return {
        name: Metric(name, float(frame.values[name]), time_ms, frame.segment)
        for name in SHOWN_OF_A_RUN
        if name in frame.values and math.isfinite(frame.values[name])
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value)))
    return flat
