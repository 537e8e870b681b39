"""The store against other trackers on one workload, each in a fresh process and folder, one after
the other: what a call takes, what is left on disk, how fast it is read.

    python benchmarks/store.py [STEPS [POSTGRES_URL]]

MLflow is ours already. The others are installed, with the versions below, into a virtual
environment of their own under build/. What may be concluded: docs/benchmarks.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "trackers"
PINNED = ("trackio==0.43.0", "wandb==0.31.0", "tensorboardX==2.6.5", "numpy==2.4.6")
PEERS = ("trackio", "wandb offline", "tensorboardX", "mlflow")
CAP_S = 60.0
"""A tracker that is slower is stopped, and read with the steps that it has."""
POSTGRES = os.environ.get("MOESCOPE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test")


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    postgres = sys.argv[2] if len(sys.argv) > 2 else POSTGRES
    schema = f"{postgres}?options=-csearch_path%3Dmoescope_bench"
    psql(postgres, "CREATE SCHEMA IF NOT EXISTS moescope_bench")
    try:
        head()
        for url in ("sqlite", schema):
            kind = "SQLite" if url == "sqlite" else "PostgreSQL"
            out = ours("journal", url, steps)
            row({**out, "name": f"moescope, {kind}"})
            row({**out["compacted"], "name": f"  after compaction, {kind}",
                 "bytes_per_step": out["compacted_bytes_per_step"]})  # fmt: skip
            print(f"  roll-ups: {out['rollup_bytes_per_step'] / 2672:.3f} of the payload")
        python = peers_python()
        for name in PEERS:
            row(peer(sys.executable if name == "mlflow" else python, name, steps))
        print("\n# A commit that is on disk when it returns, in turns (SQLite, 668 numbers)")
        out = ours("durable", "sqlite", 150)
        ratios = ", ".join(f"{ratio:.0f}" for ratio in out["ratios"])
        print(f"moescope {out['ours']:.2f} ms, mlflow {out['mlflow']:.1f} ms; ratios: {ratios}")
        print("\n# All steps at once, one process (payload: bytes of float32)")
        for url in ("sqlite", schema):
            for experts, count in ((48, 5 * steps), (256, steps)):
                out = ours(str(experts), url, count)
                print(
                    f"{url.split(':')[0]:10} 12 x {experts:3}: rows {out['rows']:.2f} of the "
                    f"payload, compacted {out['compacted']:.2f}; "
                    f"{out['numbers_per_s'] / 1e6:.2f} million numbers/s, "
                    f"{out['cpu_per_step']:.3f} ms of CPU a step; compaction "
                    f"{out['compaction_per_step']:.3f} ms a step; {count} steps, "
                    f"right: {out['is_right']}",
                    flush=True,
                )
    finally:
        psql(postgres, "DROP SCHEMA moescope_bench CASCADE")


def ours(what: str, url: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "store").mkdir()
        if url == "sqlite":
            url = f"sqlite:///{folder}/store/store.db"
        return run([sys.executable, HERE / "ours.py", what, url, str(steps), folder])


def peer(python: str, name: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return run([python, HERE / "peers.py", name, str(steps), str(CAP_S), folder])


def run(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def peers_python() -> str:
    folder = Path("build/peers")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
    return str(python)


def psql(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def head() -> None:
    print(
        f"{'':34}{'steps':>6}{'call ms':>9}{'p99':>8}{'added':>8}{'drain s':>8}{'CPU ms':>8}"
        f"{'B/step':>9}"
        f"{'scalar 1st/2nd ms':>20}{'matrix 1st/2nd ms':>20}  right"
    )


def row(out: dict[str, Any]) -> None:
    reads = [
        f"{out[f'{what}_first']:9.1f} /{out[f'{what}_second']:9.1f}"
        for what in ("scalar", "matrix")
    ]
    print(
        f"{out['name'] + ' ' + out['version']:34}{out['num_steps']:6}{out['call_median']:9.3f}"
        f"{out['call_p99']:8.3f}{out['added']:8.2f}{out['drain_s']:8.2f}{out['cpu']:8.2f}"
        f"{out['bytes_per_step']:9.0f}{reads[0]:>20}{reads[1]:>20}  {out['is_right']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
