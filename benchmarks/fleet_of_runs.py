"""Not a benchmark itself: a store of many runs, as a few months of studies leave one."""

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moescope.platform import catalogue
from moescope.platform.commands import answer, ask
from moescope.platform.compacted.compaction import compact
from moescope.platform.frozen import changed
from moescope.platform.records import Alert, Event, Frame, Run, RunStatus, Segment
from moescope.platform.store import Store
from moescope.trainer.recipes.by_name import recipe

WORDS = ("amber", "azure", "coral", "ivory", "jade", "lilac", "olive", "rust", "slate", "umber")
BIRDS = ("finch", "heron", "kite", "lark", "martin", "owl", "plover", "robin", "swift", "wren")
NUM_LIVE, NUM_SILENT, NUM_ARCHIVED = 12, 3, 40
RATES = (3e-4, 1e-3, 3e-3)
SHORTEST, LONGEST = 300, 8000
BLOCK = 1024


def fill(store: Store, num_runs: int, now_s: float, *, is_packed: bool = True) -> list[Run]:
    """Writes so many listed runs with a fifth more archived ones; returns them, newest first.

    Lengths are spread evenly over their logarithm. The newest train, some have fallen silent, some
    crashed, were halted or stopped; what has ended is packed, as the service does it.
    """
    num_archived = num_runs * NUM_ARCHIVED // 200
    chance = np.random.default_rng(0)
    made = []
    for rank in range(num_runs + num_archived):
        run = _run(rank, now_s, is_archived=rank >= num_runs)
        made.append(run)
    for rank, run in reversed(list(enumerate(made))):
        _write(store, run, rank, chance)
        if is_packed:
            compact(store, run)
    return made


def _run(rank: int, now_s: float, *, is_archived: bool) -> Run:
    status = _status(rank)
    num_steps = int(SHORTEST * (LONGEST / SHORTEST) ** ((rank * 0.618) % 1))
    step_s = 0.2 + 0.05 * (rank % 7)
    rate = RATES[rank % len(RATES)]
    config = changed(
        recipe("tiny"),
        {
            "steps": num_steps if status == "finished" else 2 * num_steps,
            "seed": rank // 3,
            "optim.learning_rate": rate,
            "moe.num_experts": (8, 16)[rank // 3 % 2],
            "moe.num_chosen": (1, 2)[rank // 6 % 2],
        },
    )
    is_live = status == "running"
    silence_s = 200.0 + 7000.0 * (rank - NUM_LIVE) if rank >= NUM_LIVE else 0.5
    ended_s = now_s - (silence_s if is_live else 1800.0 * rank)
    name = f"{WORDS[rank % 10]}-{BIRDS[rank // 10 % 10]}"
    return Run(
        id=f"20261130-{240000 - rank:06d}-{rank:06x}",
        name=name if rank < 100 else f"{name}-{rank // 100 + 1}",
        project=("video", "video", "audio-video", "ablations")[rank % 4],
        config=config.model_dump(mode="json"),
        status=status,
        device="NVIDIA H200" if rank % 3 else "cpu",
        code_version="0.1.0",
        created_s=ended_s - num_steps * step_s,
        heartbeat_s=ended_s,
        finished_s=None if is_live else ended_s,
        tags=(f"lr {rate:g}", *(("baseline",) if rank % 9 == 0 else ())),
        note="the branch with the new sampler" if rank % 11 == 0 else "",
        is_archived=is_archived,
    )


def _status(rank: int) -> RunStatus:
    if rank < NUM_LIVE + NUM_SILENT:
        return "running"
    odd: dict[int, RunStatus] = {3: "crashed", 7: "halted", 11: "stopped"}
    return odd.get(rank % 17, "finished")


def _write(store: Store, run: Run, rank: int, chance: np.random.Generator) -> None:
    num_steps = int(run.config["steps"]) // (1 if run.status == "finished" else 2)
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    losses = _losses(num_steps, rank, chance)
    back = num_steps * 2 // 3 if rank % 5 == 1 else None
    stop = num_steps if back is None else back + 40
    for frames in _blocks(run, 0, 0, losses[:stop], chance):
        store.write_frames(frames)
    if back is not None:
        _roll_back(store, run, back)
        for frames in _blocks(run, 1, back, losses[back:], chance):
            store.write_frames(frames)
    _say(store, run, rank, num_steps)


def _losses(num_steps: int, rank: int, chance: np.random.Generator) -> NDArray[np.float64]:
    steps = np.arange(num_steps)
    floor = 0.4 + 0.05 * (rank % 8)
    losses = floor + 0.9 * (1 + steps / 60) ** -0.6 + chance.normal(0, 0.015, num_steps)
    if rank % 6 == 2:
        at = num_steps * 3 // 4
        losses[at : at + 6] += 1.4
    return losses


def _blocks(
    run: Run, segment: int, first: int, losses: NDArray[np.float64], chance: np.random.Generator
) -> Iterator[list[Frame]]:
    span_s = (run.finished_s or run.heartbeat_s) - run.created_s
    per_step_s = span_s / max(1, first + len(losses))
    for start in range(0, len(losses), BLOCK):
        block = losses[start : start + BLOCK]
        noise = chance.normal(0, 1, len(block))
        yield [
            Frame(
                run.id,
                segment,
                first + start + i,
                run.created_s + per_step_s * (first + start + i),
                {
                    name: np.asarray(value, np.float32)
                    for name, value in values_of(loss, noise[i], per_step_s, i).items()
                },
            )
            for i, loss in enumerate(block)
        ]


def values_of(loss: float, noise: float, step_s: float, at: int) -> dict[str, float]:
    values = {
        catalogue.LOSS_TOTAL: loss,
        catalogue.LOSS_VIDEO: loss * 0.7,
        catalogue.GRAD_NORM: 0.4 + loss + 0.05 * abs(noise),
        catalogue.STEP_TIME_S: step_s,
        catalogue.TOKENS_PER_S: 9000 / max(step_s, 1e-3) + 60 * noise,
        catalogue.UTILISATION: 0.38 + 0.01 * noise,
    }
    if at % 10 == 0:
        values |= {
            catalogue.SINK_LAG_S: 0.3,
            catalogue.SINK_COALESCED: 0.0,
            catalogue.SINK_LOST: 0.0,
            catalogue.SINK_REFUSED: 0.0,
        }
    return values


def _roll_back(store: Store, run: Run, back: int) -> None:
    time_s = run.created_s + 60
    store.add_segment(Segment(run.id, 1, back, "rollback", time_s, 0, back - 1))
    store.add_event(Event(run.id, 1, back, time_s, "rollback", f"from step {back + 40} to {back}"))


def _say(store: Store, run: Run, rank: int, num_steps: int) -> None:
    if rank % 7 == 2 or run.status == "halted":
        store.put_alert(
            Alert(
                f"alert-{run.id}", run.id, 0, "loss_spike",
                "critical" if rank % 2 else "warning", num_steps * 3 // 4, num_steps * 3 // 4 + 2,
                9.5, 4.0, "the loss of all samples is far above its usual course",
                run.heartbeat_s - 60, f"loss_spike-{run.id}",
                "open" if run.status in ("running", "halted") else "resolved",
            )
        )  # fmt: skip
    if rank == 4:
        asked = ask(store, run.id, "pause", {}, "somebody", time.time() - 300)
        answer(store, asked.id, "done", f"paused at step {num_steps}", time.time() - 299)
    if rank == 6:
        ask(store, run.id, "checkpoint", {}, "somebody", time.time() - 2)
