"""How fast this machine trains: a few steps of the real trainer, of the smallest and the largest
model of a study; kept in the store, so that a study asked for again plans the same."""

import hashlib
import itertools
import json
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, select

from ..platform import tables
from ..platform.errors import MoescopeError
from ..platform.frozen import changed, leaves
from ..platform.records import Calibration
from ..platform.settings import Settings
from ..platform.store import Store
from ..platform.upserts import columns_of, replace
from ..trainer.config import RunConfig
from ..trainer.counts.flops import count_flops
from ..trainer.counts.parameters import count_parameters

STEPS, FIRST_STEPS = 8, 3
"""The first ones are slower (memory is asked for, kernels are chosen) and not counted."""


def calibrated(
    store: Store,
    configs: Iterable[RunConfig],
    now_s: float,
    *,
    is_anew: bool = False,
    may_measure: bool = True,
) -> dict[int, float]:
    """Returns {active parameters: training FLOPs per second} of the smallest and the largest.

    What this machine has measured before is taken from the store, unless `is_anew`. Else each is
    trained for a few steps on its own data in a folder that is gone afterwards; the time is a
    step's median, data and watching included. Raises MoescopeError where training does, and where
    nothing is known that may not be measured.
    """
    by_size = {count_parameters(config).active: config for config in configs}
    machine = socket.gethostname()
    rate = {}
    for size in sorted({min(by_size), max(by_size)}):
        shape = shape_of(by_size[size])
        known = None if is_anew else _kept(store, machine, shape)
        if known is None and not may_measure:
            raise MoescopeError(
                f"machine {machine} has not been calibrated for this study: `moescope study plan` "
                "does that, on it"
            )
        if known is None:
            known = Calibration(machine, shape, _measured(by_size[size]), now_s)
            _keep(store, known)
        rate[size] = known.flops_per_s
    return rate


def shape_of(config: RunConfig) -> str:
    """Returns a hash of what makes a step: all but the seed, and how many steps there are."""
    what = {
        key: value
        for key, value in leaves(config)
        if key not in ("seed", "steps", "project") and not key.startswith(("data.folder", "optim."))
    }
    said = json.dumps([what, config.optim.optimizer], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=10).hexdigest()


def _kept(store: Store, machine: str, shape: str) -> Calibration | None:
    c = tables.calibrations.c
    statement = select(tables.calibrations).where(c.machine == machine, c.shape == shape)
    row = store.database.read(lambda connection: connection.execute(statement).mappings().first())
    return None if row is None else Calibration(**row)


def _keep(store: Store, measured: Calibration) -> None:
    def work(connection: Connection) -> None:
        columns = columns_of(measured)
        statement = replace(connection.dialect.name, tables.calibrations, tuple(columns))
        connection.execute(statement, columns)

    store.database.write(work)


def _measured(config: RunConfig) -> float:
    from ..trainer.run import train

    short = changed(
        config,
        {
            "steps": STEPS,
            "optim.warmup_steps": 1,
            "optim.decay_steps": 1,
            "watch.probe_every": 0,
            "policy.mode": "off",
            "checkpoint.ring_gib": 0.0,
            "checkpoint.disk_every_steps": STEPS * 1000,
        },
    )
    boundaries_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moescope-calibration-") as folder:
        train(
            short,
            settings=Settings(home=Path(folder), mlflow="off"),
            run_id="calibration",
            progress=False,
            on_step=lambda _: boundaries_s.append(time.perf_counter()),
        )
    steps_s = [after - before for before, after in itertools.pairwise(boundaries_s)]
    step_s = median(steps_s[FIRST_STEPS:])
    return count_flops(config).training * config.data.batch / step_s
