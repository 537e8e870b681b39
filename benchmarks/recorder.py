"""What the flight recorder costs: a note of each step, the norm of each layer's gradient, and the
record that is written at an alert.

    python benchmarks/recorder.py

`tiny` trains for a while; then each part is timed alone, on what the run has in its hands, and told
in shares of the median step.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from moescope.monitors.autopsy.record import Entry, write_record
from moescope.monitors.autopsy.recorder import FlightRecorder
from moescope.monitors.autopsy.story import first_account
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.records import Alert
from moescope.platform.settings import Settings
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import open_trainer

STEPS = 60
REPEATS = 200


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_clips(root / "clips", 40)
        config = changed(
            tiny(),
            {"data.folder": str(root / "clips"), "steps": STEPS + 1, "watch.probe_every": 0},
        )
        print(f"# {platform.machine()}, torch {torch.__version__}")
        with open_trainer(config, Settings(home=root / "home", mlflow="off")) as trainer:
            for _ in range(STEPS):
                trainer.train_step()
            tell(trainer, root)


def tell(trainer: Trainer, root: Path) -> None:
    step_s = trainer.median_step_s()
    kept = trainer.witness.recorder
    alert = Alert(
        "a", trainer.run.id, 0, "loss_spike", "critical", STEPS - 4, STEPS - 1, 9.0, 3.5, "",
        0.0, "",
        evidence={"signal": catalogue.LOSS_PER_SAMPLE},
    )  # fmt: skip
    record = kept.record(alert)
    again = FlightRecorder(300, 64 * 2**20)
    entry = record.entries[-1]

    def note() -> None:
        again.note(
            Entry(0, entry.step, entry.batch, entry.names, entry.positions, {**entry.values})
        )

    parameters = [p for p in trainer.state.model.parameters() if p.requires_grad]
    norms = torch.ones(len(parameters))

    def of_layers() -> None:
        trainer.measure.take_norms(parameters, norms)
        trainer.measure._norms.send()
        trainer.measure._norms.read()

    print(
        f"median step: {step_s * 1e3:.0f} ms; {len(kept)} steps in {kept.num_bytes / 1024:.0f} KiB"
    )
    for name, part, times in (
        ("note of a step", note, REPEATS),
        ("norms of layers", of_layers, REPEATS),
        ("record at an alert", lambda: write_record(root / "record", record), 10),
        ("first account, in a side thread", lambda: first_account(record, 0.0), 10),
    ):
        spent_s = median_s(part, times)
        print(f"{name:<32} {spent_s * 1e6:8.0f} us  {spent_s / step_s:7.3%} of a step")


def median_s(part: Callable[[], object], times: int) -> float:
    """Process CPU seconds of a call, the median of many."""
    found = []
    for _ in range(times):
        start_s = time.process_time()
        part()
        found.append(time.process_time() - start_s)
    return float(np.median(found))


if __name__ == "__main__":
    main()
