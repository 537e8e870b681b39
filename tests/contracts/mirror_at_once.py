"""A process that mirrors runs when it is told to: a line on its input is a run's id.

Each run is a trial of one study. Usage: python mirror_at_once.py TRACKING_URL PROJECT
"""

import sys

import numpy as np

from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import Frame, Run, Segment, Trial


def mirror(url: str, project: str, run_id: str) -> None:
    run = Run(run_id, run_id, project, {"a": 1}, "running", "cpu", "0.1", 1.0, 1.0)
    trial = Trial(project, run_id, 0, f"trial {run_id}", {}, {}, {}, run_id=run_id)
    sink = MlflowSink(url, run, trial=trial)
    values = {LOSS_TOTAL: np.ones((), np.float32)}
    records = [Segment(run_id, 0, 0, "start", 1.0), Frame(run_id, 0, 0, 100.0, values)]
    for _ in range(3):
        try:
            sink.write(records)
            return
        except Exception as error:  # as a sink's thread would: again
            failure = error
    raise failure


def main() -> None:
    url, project = sys.argv[1:]
    mirror(url, f"{project}-before", f"alone-{sys.stdin.readline().strip()}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        mirror(url, project, line.strip())
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
