"""Going back often costs nothing that stays, and a finished run lets go of all that it held."""

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import psutil
import torch

from moescope.monitors.watching.acting import carry_out
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.records import Action
from moescope.platform.store import Store

Make = Callable[..., Any]

WIDE = 256
"""A state of the linear layer beside the network takes 0.8 MiB, with Adam's moments."""


def test_twenty_rollbacks_leak_neither_memory_nor_file_handles_nor_hooks(
    watched: Make, plain: Make, store: Store
) -> None:
    wide = torch.nn.Linear(WIDE, WIDE)
    extra = torch.optim.AdamW(wide.parameters())
    loop = watched(
        state={"wide": wide, "extra": extra},
        mode="off",
        keeping=WatchKeeping(memory_every_steps=2, disk_every_steps=2),
    )
    process, seen = psutil.Process(), []
    for num_backs in range(1, 26):
        while loop.run.num_steps < 7:
            wide(torch.ones(WIDE)).sum().backward()
            extra.step()
            loop.step()
        carry_out(loop.run, Action("rollback", "forced", to_step=4), is_automatic=False)
        loop.losses.clear()
        loop.actions.clear()
        if num_backs in (5, 25):
            loop.run.keeper.flush()
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # of what is free nothing is counted
            tensors = sum(type(one) is torch.Tensor for one in gc.get_objects())
            hooks = sum(len(m._forward_hooks) for m in loop.model.modules())
            updates = len(loop.optimizer._optimizer_step_pre_hooks)
            counts = (process.num_fds(), tensors, hooks, updates, threading.active_count())
            seen.append((counts, process.memory_info().rss))
    (early, early_rss), (late, late_rss) = seen
    assert late[0] <= early[0] + 1
    assert late[1] <= early[1]
    assert late[2:] == early[2:]
    # twenty states are 16 MiB here; sqlite's cache of pages and the allocator grow by a few
    assert late_rss - early_rss < 10 * 2**20
    loop.run.finish()
    assert len(store.segments(loop.run.id)) == 26
    on_disk = [c.step for c in store.checkpoints(loop.run.id) if c.is_on_disk]
    assert on_disk == [0, 2, 4]


def test_what_was_watched_can_be_forgotten_when_the_run_is_finished(watched: Make) -> None:
    threads, handles = threading.active_count(), psutil.Process().num_fds()
    loop = watched(sample_every=1)
    for _ in range(25):
        loop.step()
    carry_out(loop.run, Action("rollback", "forced", to_step=10), is_automatic=False)
    loop.step()
    loop.run.finish()
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() <= handles + 1
    for module in loop.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.optimizer._optimizer_step_post_hooks
    # the states in host memory go with the run, not with whoever still holds it
    run, model, optimizer = loop.run, weakref.ref(loop.model), weakref.ref(loop.optimizer)
    gc.collect()
    assert held_tensors(run.keeper) == 0
    del loop, run, module
    gc.collect()
    assert model() is None
    assert optimizer() is None


def held_tensors(root: Any) -> int:
    """Tensors that can be reached from an object by the containers in between."""
    seen, waiting, found = set(), [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found += 1
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple | set):
            waiting += one
        elif type(one).__module__.startswith("moescope"):
            waiting += getattr(one, "__dict__", {}).values()
    return found
