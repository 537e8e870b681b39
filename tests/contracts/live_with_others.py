"""One of several processes on one store: a trainer that writes, or the service that reads and asks.

Run as `python live_with_others.py URL ROLE SECONDS`; prints, as JSON, what it wrote and saw.
"""

import json
import sys
import time

import numpy as np

from moescope.platform import commands, leases
from moescope.platform.records import Alert, Event, Frame, Run
from moescope.platform.series import known_signals, latest, read_series
from moescope.platform.store import open_store


def train(url: str, run_id: str, seconds: float) -> dict[str, int]:
    rng = np.random.default_rng(0)
    step = num_taken = 0
    longest_s = 0.0
    with open_store(url) as store:
        store.add_run(Run(run_id, run_id, "p", {}, "running", "cpu", "0", 0.0, 0.0))
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            start_s = time.monotonic()
            load = rng.random((4, 16), dtype=np.float32)
            values = {"loss/total": np.float32(step), "router/expert_load": load}
            store.write_frames([Frame(run_id, 0, step, time.time(), values)])
            if step % 5 == 0:
                store.update_run(run_id, heartbeat_s=time.time())
                store.add_event(Event(run_id, 0, step, 0.0, "note", "beat"))
                leases.claim(store, f"trains {run_id}", run_id, time.time(), 30.0)
                for command in commands.take(store, run_id):
                    commands.answer(store, command.id, "done", "", time.time())
                    num_taken += 1
            if step % 20 == 0:
                name = f"{run_id}-{step}"
                store.put_alert(
                    Alert(name, run_id, 0, "spike", "info", step, step, 1.0, 0.5, "m", 0.0, name)
                )
            longest_s = max(longest_s, time.monotonic() - start_s)
            step += 1
            time.sleep(0.01)
        store.update_run(run_id, status="finished")
        # what was asked since the last look
        num_taken += len(commands.take(store, run_id))
    return {"num_steps": step, "num_taken": num_taken, "longest_ms": int(1000 * longest_s)}


def serve(url: str, run_ids: list[str], seconds: float) -> dict[str, int]:
    num_asked = num_reads = 0
    with open_store(url) as store:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for run in store.runs():
                latest(store, run.id, known_signals(store, run.id))
                found = read_series(store, run.id, "loss/total", max_points=200)
                assert found.steps.tolist() == found.values.astype(int).tolist()
                read_series(store, run.id, "router/expert_load", row=1, max_points=100)
                num_reads += 1
                if run.id in run_ids and run.status == "running":
                    commands.ask(store, run.id, "checkpoint", {}, "service", time.time())
                    num_asked += 1
            for alert in store.alerts(states=["open"])[:2]:
                store.set_alert_state(alert.id, "acknowledged", "service", time.time())
            time.sleep(0.05)
    return {"num_asked": num_asked, "num_reads": num_reads}


if __name__ == "__main__":
    url, role, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    runs = ["r0", "r1"]
    answer = serve(url, runs, seconds) if role == "serve" else train(url, role, seconds + 1)
    sys.stdout.write(json.dumps(answer))
