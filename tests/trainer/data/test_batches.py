"""Batches are a pure function of their number, whatever happens to processes and files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import DataConfig
from moescope.trainer.data import decode_pool
from moescope.trainer.data.batches import Batch, Batches
from moescope.trainer.data.clips import ClipIndex, find_clips

DATA = DataConfig(batch=4, num_frames=4, height=16, width=16, num_mels=8, num_mel_steps=8)


def is_equal(one: Batch, other: Batch) -> bool:
    return (
        (one.index, one.names, one.positions) == (other.index, other.names, other.positions)
        and torch.equal(one.video_BCFHW, other.video_BCFHW)
        and torch.equal(one.mel_BNM, other.mel_BNM)
        and torch.equal(one.text_BS, other.text_BS)
        and torch.equal(one.has_sound_B, other.has_sound_B)
        and torch.equal(one.label_B, other.label_B)
    )


def wait_until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def batches(made_index: ClipIndex) -> Iterator[Batches]:
    with Batches(made_index, DATA, seed=0) as batches:
        yield batches


def test_decoding_in_the_own_process_gives_the_same_batches(made_index: ClipIndex) -> None:
    here = Batches(made_index, changed(DATA, {"workers": 0}), seed=0)
    with here, Batches(made_index, DATA, seed=0) as ahead:
        for index in (0, 3, 1):
            one, other = here.get(index), ahead.get(index)
            assert one.names == other.names
            assert torch.equal(one.video_BCFHW, other.video_BCFHW)
            assert torch.equal(one.mel_BNM, other.mel_BNM)
    assert here._pool.process_ids() == []


def test_a_batch_has_its_shapes_types_and_ranges(batches: Batches) -> None:
    batch = batches.get(2)
    assert batch.index == 2
    assert batch.positions == (8, 9, 10, 11)
    assert batch.names == tuple(clip.name for _, clip in batches.which(2))
    assert batch.video_BCFHW.shape == (4, 3, 4, 16, 16)
    assert batch.video_BCFHW.dtype == batch.mel_BNM.dtype == torch.float32
    assert batch.video_BCFHW.min() >= -1
    assert batch.video_BCFHW.max() <= 1
    assert batch.mel_BNM.shape == (4, 8, 8)
    assert batch.text_BS.shape == (4, 48)
    assert batch.text_BS.dtype == torch.int64
    assert batch.has_sound_B.tolist() == [True] * 4
    assert batch.label_B.tolist() == [clip.label for _, clip in batches.which(2)]
    assert batch.label_B.dtype == torch.int64
    first = bytes(byte - 1 for byte in batch.text_BS[0].tolist() if byte).decode()
    assert first == batches.which(2)[0][1].caption


def test_a_batch_is_the_same_whatever_was_asked_for_before(made_index: ClipIndex) -> None:
    with Batches(made_index, DATA, seed=0) as one:
        forward = {number: one.get(number) for number in range(6)}
        assert all(is_equal(forward[n], one.get(n)) for n in (5, 0, 3, 3, 1, 4))
    with Batches(made_index, changed(DATA, {"workers": 2}), seed=0, ahead=0) as other:
        assert all(is_equal(forward[n], other.get(n)) for n in (4, 2, 3))
    with Batches(made_index, DATA, seed=1) as another_seed:
        assert not is_equal(forward[0], another_seed.get(0))


def test_without_sound_and_captions_their_tensors_are_empty(made_index: ClipIndex) -> None:
    silent = changed(DATA, {"num_mel_steps": 0, "num_text_bytes": 0, "validation_share": 0.2})
    with Batches(made_index, silent, seed=0, ahead=0) as batches:
        batch, held_out = batches.get(0), batches.validation_batch(2)
    assert (batch.mel_BNM.shape, batch.text_BS.shape) == ((4, 8, 0), (4, 0))
    assert (held_out.mel_BNM.shape, held_out.text_BS.shape) == ((2, 8, 0), (2, 0))
    assert not batch.has_sound_B.any()
    with Batches(made_index, changed(silent, {"num_mel_steps": 8}), 0, ahead=0) as batches:
        assert torch.equal(batches.get(0).video_BCFHW, batch.video_BCFHW)


def test_going_back_starts_no_process(batches: Batches) -> None:
    batches.get(20)
    before = batches.process_ids()
    for number in (3, 40, 2, 1000):
        batches.get(number)
    assert batches.process_ids() == before


def test_held_out_clips_are_fixed_and_never_trained_on(made_index: ClipIndex) -> None:
    data = changed(DATA, {"validation_share": 0.2})
    with Batches(made_index, data, seed=0) as one, Batches(made_index, data, seed=0) as two:
        two.get(3)
        first = one.validation_batch(2)
        assert first.index == -1
        assert is_equal(first, two.validation_batch(2))
        everything = one.validation_batch(99)
        assert set(everything.names) == {clip.name for clip in one.held_out_clips}
        trained = {clip.name for n in range(9) for _, clip in one.which(n)}
        assert not trained & set(everything.names)
        assert len(trained) + len(everything.names) == len(made_index.clips)


def test_where_nothing_is_held_out_the_probe_sees_training_clips(made_index: ClipIndex) -> None:
    with Batches(made_index, changed(DATA, {"validation_share": 0.0}), seed=0) as batches:
        assert len(batches.validation_batch(3).names) == 3


def test_a_clip_that_breaks_in_mid_run_is_named_and_replaced_by_the_next(
    tmp_path: Path, made_folder: Path
) -> None:
    shutil.copytree(made_folder, tmp_path / "clips")
    index = find_clips(tmp_path / "clips")
    data = changed(DATA, {"validation_share": 0.0, "order": "by_folder"})
    with Batches(index, data, seed=0) as batches:
        whole = batches.get(0)
        numbers = [index.clips.index(clip) for _, clip in batches.which(0)]
        index.clips[numbers[1]].path.write_bytes(b"gone bad")
        broken = index.clips[numbers[1]].name
        batches.get(7)
        batch = batches.get(0)
        assert batches.bad_clips == {broken: "not a video file, or cut off"}
        assert batch.names[1] == index.clips[numbers[1] + 1].name
        for place in (0, 2, 3):
            assert batch.names[place] == whole.names[place]
            assert torch.equal(batch.video_BCFHW[place], whole.video_BCFHW[place])
    with Batches(index, data, seed=0) as resumed:
        assert is_equal(resumed.get(0), batch)


def test_when_everything_is_gone_the_run_hears_of_it(tmp_path: Path, made_folder: Path) -> None:
    shutil.copytree(made_folder, tmp_path / "clips")
    with Batches(find_clips(tmp_path / "clips"), DATA, seed=0, ahead=0) as batches:
        batches.get(0)
        shutil.rmtree(tmp_path / "clips")
        with pytest.raises(MoescopeError, match=r"is data\.folder still there"):
            batches.get(1)


def test_a_process_that_dies_is_replaced_and_nothing_is_lost(made_index: ClipIndex) -> None:
    here = changed(DATA, {"workers": 0})
    with (
        Batches(made_index, here, seed=0, ahead=0) as calm,
        Batches(made_index, DATA, seed=0, ahead=1) as batches,
    ):
        for number in range(4):
            if number:
                # the same few clips come again: two deaths in a row would be the clip's own
                wait_until(lambda: not any(worker.tasks for worker in batches._pool._workers))
            (before,) = batches.process_ids()
            os.kill(before, signal.SIGKILL)
            # far from what was decoded ahead, so that the dead process is needed
            assert is_equal(batches.get(100 * number), calm.get(100 * number))
            assert batches.process_ids() != [before]
        assert not batches.bad_clips


def test_a_clip_that_hangs_its_decoder_is_named_and_replaced(
    tmp_path: Path, made_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made_folder / "part-1", tmp_path / "clips")
    index = find_clips(tmp_path / "clips")
    monkeypatch.setattr(decode_pool, "PATIENCE_S", 1.0)
    with Batches(index, changed(DATA, {"validation_share": 0.0}), seed=0, ahead=0) as batches:
        batches.get(5)
        _, clip = batches.which(0)[0]
        clip.path.unlink()
        # opening a pipe that nobody writes to waits forever
        os.mkfifo(clip.path)
        assert clip.name not in batches.get(0).names
        assert batches.bad_clips == {clip.name: "its decoding process died or hung, twice"}


def test_decoding_that_cannot_start_is_an_error_and_no_wait(
    made_index: ClipIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool, "STARTUP", "raise SystemExit(7)  # {module}")
    with (
        Batches(made_index, DATA, seed=0) as batches,
        pytest.raises(MoescopeError, match=r"does not start \(exit code 7\)"),
    ):
        batches.get(0)


def test_closing_ends_the_processes(made_index: ClipIndex) -> None:
    batches = Batches(made_index, changed(DATA, {"workers": 2}), seed=0)
    batches.get(0)
    processes = batches.process_ids()
    batches.close()
    batches.close()
    assert len(processes) == 2
    assert not any(psutil.pid_exists(process) for process in processes)
    with pytest.raises(MoescopeError, match="closed"):
        batches.get(1)


TRAINER = """
import sys, time
from moescope.trainer.config import DataConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
batches = Batches(find_clips(sys.argv[1]), DataConfig(batch=4, workers=2), seed=0)
batches.get(0)
print(*batches.process_ids(), flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("ending", ["kill -9", "interrupt", "end without close"])
def test_no_process_outlives_its_trainer(made_folder: Path, ending: str) -> None:
    how = "end" if ending == "end without close" else "wait"
    # a plain script without a main guard, as people write them
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(made_folder), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        workers = [int(word) for word in trainer.stdout.readline().split()]
        assert len(workers) == 2
        if ending == "kill -9":
            assert all(psutil.pid_exists(worker) for worker in workers)
            trainer.kill()
        elif ending == "interrupt":
            trainer.send_signal(signal.SIGINT)
        trainer.wait(timeout=20)
    wait_until(lambda: not any(map(is_running, workers)))


def is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_decoding_processes_load_no_torch(made_index: ClipIndex) -> None:
    code = "import sys; import moescope.trainer.data.decode_worker; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False"
