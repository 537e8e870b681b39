"""What the trial table and a worker cost: trials per second without training, and a real trial
beside its trainer alone.

PostgreSQL is measured too where MOESCOPE_TEST_POSTGRES_URL names a server.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from statistics import median

from sqlalchemy import Connection

from moescope.platform import catalogue, tables, trials
from moescope.platform.frozen import parsed
from moescope.platform.records import Study, Trial
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.studies.plan import plan
from moescope.studies.run import run_study
from moescope.studies.spec import StudySpec
from moescope.trainer.data.make_clips import make_clips

NUM_TRIALS, NUM_WORKERS, NUM_COMMITS = 1000, 4, 400
NUM_REAL, STEPS, TOKENS_PER_STEP = 3, 20, 4 * 12
SMALL = {
    "data.batch": 4,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "data.num_mels": 8,
    "data.num_mel_steps": 8,
    "data.num_text_bytes": 8,
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "moe.num_experts": 4,
    "moe.hidden": 16,
    "watch.probe_every": 0,
    "checkpoint.min_free_gib": 0.0,
}


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Addresses of empty stores."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"SQLite": f"sqlite:///{folder}/store.db"}
        server = os.environ.get("MOESCOPE_TEST_POSTGRES_URL")
        if not server:
            yield found
            return
        import psycopg

        schema = f"bench_{token_hex(4)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{schema}"')
            try:
                yield {**found, "PostgreSQL": f"{server}?options=-csearch_path%3D{schema}"}
            finally:
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


def work(url: str, worker: str) -> list[str]:
    """Claims and finishes until there is nothing left, training nothing."""
    done = []
    with open_store(url) as store:
        while (trial := trials.claim(store, "s", worker, worker, 0.0, 30.0)) is not None:
            if trials.finish(store, trial, {"loss": 1.0}, 1.0):
                done.append(trial.key)
    return done


def commits(url: str, holder: str) -> None:
    """The least that two durable changes of a row take, and nothing else."""

    def change(connection: Connection) -> None:
        row = tables.leases.update().where(tables.leases.c.name == holder)
        connection.execute(row.values(until_s=time.time()))

    with open_store(url) as store:
        for _ in range(NUM_COMMITS // NUM_WORKERS):
            store.database.write(change, is_durable=True)


def table_rate(name: str, url: str) -> None:
    with open_store(url) as store:
        rows = [Trial("s", f"k{i}", i, f"trial {i}", {}, {}, {}) for i in range(NUM_TRIALS)]
        trials.ask(store, Study("s", {}, "running", 0.0), rows)
    workers = [f"w{i}" for i in range(NUM_WORKERS)]
    with ProcessPoolExecutor(NUM_WORKERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(commits, [url] * NUM_WORKERS, workers))  # processes and pages are warm
        start_s = time.perf_counter()
        list(pool.map(commits, [url] * NUM_WORKERS, workers))
        commit_s = (time.perf_counter() - start_s) / NUM_COMMITS
        start_s = time.perf_counter()
        done = [key for keys in pool.map(work, [url] * NUM_WORKERS, workers) for key in keys]
        trial_s = (time.perf_counter() - start_s) / NUM_TRIALS
    assert sorted(done) == sorted(row.key for row in rows), "a trial was lost, or done twice"
    print(
        f"{name}: {1 / trial_s:.0f} trials/s by {NUM_WORKERS} workers, none twice; each takes "
        f"{trial_s / commit_s / 2:.2f} of two bare durable commits ({2000 * commit_s:.1f} ms)"
    )


def around(store: Store, run_id: str, began_s: float, ended_s: float) -> tuple[float, float]:
    """Returns the seconds before a run's first step and after its last."""
    times_s = read_series(store, run_id, catalogue.LOSS_TOTAL).times_s
    return float(times_s[0]) - began_s, ended_s - float(times_s[-1])


def alone(settings: Settings, clips: Path, run_id: str) -> tuple[float, float]:
    """The trainer by itself."""
    words = [sys.executable, "-m", "moescope.trainer", "tiny", "--data", str(clips)]
    words += ["--home", str(settings.home_path), "--run-id", run_id, "--steps", str(STEPS)]
    for key, value in SMALL.items():
        words += ["--set", f"{key}={value}"]
    began_s = time.time()
    subprocess.run(words, check=True, capture_output=True)
    ended_s = time.time()
    with open_store(settings.store_url) as store:
        return around(store, run_id, began_s, ended_s)


def overhead() -> None:
    os.environ["MOESCOPE_MLFLOW"] = "off"  # of trainers and workers alike
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder) / "clips"
        make_clips(clips, 12, seed=0)
        settings = Settings(home=Path(folder) / "home", mlflow="off")
        settings.make_home()
        alone(settings, clips, "warm")
        own = [alone(settings, clips, f"alone-{i}") for i in range(NUM_REAL)]
        spec = parsed(
            StudySpec,
            {
                "name": "s",
                "kind": "seeds",
                "data": str(clips),
                "changes": SMALL,
                "seeds": list(range(NUM_REAL)),
                "budget": {"tokens": [STEPS * TOKENS_PER_STEP]},
            },
            "study",
        )
        with open_store(settings.store_url) as store:
            run_study(store, settings, plan(spec, {}), lambda line: None)
            ours = []
            for trial in trials.trials(store, "s"):
                (attempt,) = trials.attempts(store, "s", trial.key)
                assert attempt.ended_s is not None
                ours.append(around(store, trial.run_id, attempt.started_s, attempt.ended_s))
    before_s, after_s = (median(times) for times in zip(*ours, strict=True))
    own_before_s, own_after_s = (median(times) for times in zip(*own, strict=True))
    more_s = before_s + after_s - own_before_s - own_after_s
    print(
        f"a trial: {before_s:.2f} s from claim to first step, {after_s:.2f} s from its last step "
        f"to its result; its trainer alone takes {own_before_s:.2f} s and {own_after_s:.2f} s: "
        f"{more_s:+.2f} s (goal: under 3)"
    )


def main() -> None:
    with stores() as found:
        for name, url in found.items():
            table_rate(name, url)
    overhead()


if __name__ == "__main__":
    main()
