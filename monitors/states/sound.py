"""Which of a run's states on disk another run, or a later process, may start from."""

from pathlib import Path

from ...platform.records import Run
from ...platform.store import Store
from ..policy_memory import PolicyMemory
from .checkpoint import DamagedCheckpoint, checkpoint_folders, read_about
from .stamps import read_health

CHECKPOINTS, MEMORY = "checkpoints", "memory.jsonl"


def tainted_paths(store: Store, run_id: str) -> set[str]:
    """Folders of the run's states that the store has as tainted: on a full disk it may know what
    no stamp could say."""
    return {c.path for c in store.checkpoints(run_id) if c.health == "tainted"}


def sound_folders(store: Store, run: Run) -> tuple[list[Path], list[str]]:
    """Returns the folders of a run's sound states, oldest first, and what is wrong with those that
    cannot be read. Only reads: the run may go on meanwhile.

    Sound is what is neither tainted, by its stamp or in the store, nor left behind by a rollback
    that the policy remembers.
    """
    memory = PolicyMemory(Path(run.folder) / MEMORY, is_ours=False)
    tainted = tainted_paths(store, run.id)
    usable, faults = [], []
    for folder in checkpoint_folders(Path(run.folder) / CHECKPOINTS):
        if str(folder) in tainted or read_health(folder) == "tainted":
            continue
        try:
            about = read_about(folder)
        except DamagedCheckpoint as damage:
            faults.append(str(damage))
            continue
        if not memory.is_left_behind(about["step"], about["segment"]):
            usable.append(folder)
    return usable, faults
