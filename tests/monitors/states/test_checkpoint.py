"""A checkpoint is whole or absent, and comes back as it was."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.monitors.states.checkpoint import (
    TENSORS,
    VALUES,
    DamagedCheckpoint,
    checkpoint_folders,
    copied,
    num_bytes,
    read_about,
    read_checkpoint,
    remove_partials,
    write_checkpoint,
)


def a_state() -> dict[str, Any]:
    return {
        "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([0.5])},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "betas": [0.9, 0.99], "fused": True, "note": None}],
        },
        "judge": {"window": np.array([1.0, np.nan, np.inf]), "name": "loss"},
        "empty": torch.zeros(0),
    }


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = a_state()
    size = write_checkpoint(tmp_path / "step-1", state, {"step": 1})
    back = read_checkpoint(tmp_path / "step-1")
    assert torch.equal(back["model"]["weight"], state["model"]["weight"])
    assert back["optimizer"]["state"][0]["step"] == 3.0
    assert back["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    np.testing.assert_array_equal(back["judge"]["window"], state["judge"]["window"])
    assert back["judge"]["window"].dtype == np.float64
    assert back["empty"].shape == (0,)
    assert read_about(tmp_path / "step-1") == {"step": 1}
    assert size == sum(f.stat().st_size for f in (tmp_path / "step-1").iterdir())


@pytest.mark.parametrize("name", [TENSORS, VALUES])
def test_one_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "step-1", a_state(), {"step": 1})
    file = tmp_path / "step-1" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match="step-1 is damaged"):
        read_checkpoint(tmp_path / "step-1")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-1", a_state(), {"step": 1})
    (tmp_path / "step-1" / TENSORS).unlink()
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        read_checkpoint(tmp_path / "step-1")


def test_a_failed_write_leaves_the_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    write_checkpoint(folder, a_state(), {"step": 1})
    with pytest.raises(AssertionError, match="is <class 'object'>"):
        write_checkpoint(folder, {"odd": object()}, {"step": 2})
    assert read_about(folder) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_what_a_killed_process_left_is_not_a_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-1", a_state(), {"step": 1})
    half = tmp_path / ".step-2.999.partial"
    half.mkdir()
    (half / VALUES).write_text("{")
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-1"]
    remove_partials(tmp_path)
    assert not half.exists()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-1", a_state(), {"step": 1})
    file = tmp_path / "step-1" / VALUES
    text = json.loads(file.read_text())["document"].replace('"format":1', '"format":9')
    import hashlib

    digest = hashlib.blake2b(text.encode()).hexdigest()
    file.write_text(json.dumps({"blake2b": digest, "document": text}))
    with pytest.raises(DamagedCheckpoint, match="format 9, this program reads 1"):
        read_about(tmp_path / "step-1")


def test_a_copy_shares_no_memory_with_the_live_state_and_reuses_the_old_copy() -> None:
    live = a_state()
    first = copied(live)
    live["model"]["weight"].add_(1)
    assert first["model"]["weight"][0, 0] == 0
    home = first["model"]["weight"].data_ptr()
    second = copied(live, first)
    assert second["model"]["weight"].data_ptr() == home
    assert second["model"]["weight"][0, 0] == 1


def test_bytes_count_every_tensor_once() -> None:
    # 6 + 1 weights, 1 step count, all of 4 bytes
    assert num_bytes(a_state()) == 4 * 8
