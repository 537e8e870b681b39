"""Clips become shards, which go on where they were stopped, hold their checksums, and train as
files do.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data import shards
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.decode import read_sample
from moescope.trainer.encoders.encode import encode_clips
from moescope.trainer.encoders.text import encode_captions
from moescope.trainer.encoders.vae import load_vae
from moescope.trainer.run import train
from moescope.trainer.sampling.generate import Sampling
from moescope.trainer.sampling.sample_run import sample_run
from moescope.trainer.upcycle.plan import UpcyclePlan
from moescope.trainer.upcycle.run import upcycle

CPU = torch.device("cpu")
Saver = Callable[..., Path]


@pytest.fixture(scope="session")
def encoded(encodable: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of three windows each, in two shards."""
    folder = tmp_path_factory.mktemp("shards") / "there"
    windows = changed(encodable, {"data.windows_per_clip": 3, "data.flip_share": 0.5})
    found = encode_clips(windows, folder, clips_per_shard=4)
    assert (found.num_clips, found.num_windows, found.num_shards) == (6, 18, 2)
    assert (found.num_kept, found.passed_over) == (0, ())
    return folder


@pytest.fixture
def own(encoded: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    folder = tmp_path / "own"
    folder.mkdir()
    for path in encoded.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def trained_on(encodable: RunConfig) -> Callable[..., RunConfig]:
    """Returns the configuration of a run on a folder of shards."""

    def config(folder: Path, **changes: Any) -> RunConfig:
        there = {"data.folder": str(folder), "data.vae": "", "data.text_encoder": ""}
        return changed(encodable, {**there, "data.flip_share": 0.5, **changes})

    return config


def contents(folder: Path) -> dict[str, str]:
    """Returns the checksum of every file of shards, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name.startswith("shard-")
    }


def test_a_window_is_what_the_vae_makes_of_the_same_window_of_the_file(
    encoded: Path, encodable: RunConfig, trained_on: Callable[..., RunConfig], wan_vae: Path
) -> None:
    files, rows = find_clips(encodable.data.folder), find_clips(encoded)
    assert [clip.name for clip in rows.clips] == [clip.name for clip in files.clips]
    assert rows.classes == files.classes
    vae, data = load_vae(str(wan_vae), CPU), trained_on(encoded).data
    for clip, row in zip(files.clips, rows.clips, strict=True):
        assert row.place is not None
        assert row.caption == clip.caption
        for window in range(3):
            read = shards.read_window(row.path, row.place, window)
            sample = read_sample(clip, data, encodable.seed, window)
            pixels = torch.from_numpy(sample.video_CFHW.astype(np.float32))[None] / 127.5 - 1
            expected = vae.encode(pixels)[0].numpy()
            np.testing.assert_allclose(read.video_LFHW, expected, atol=2e-3, rtol=1e-3)
            assert read.mel_NM is not None
            np.testing.assert_array_equal(read.mel_NM, sample.mel_NM)


def test_batches_of_shards_are_batches(
    encoded: Path, encodable: RunConfig, trained_on: Callable[..., RunConfig]
) -> None:
    config = trained_on(encoded)
    index = find_clips(encoded)
    with Batches(index, config.data, 7) as batches, Batches(index, config.data, 7) as again:
        batch, validation = batches.get(3), batches.validation_batch(2)
        again.get(5)
        same = again.get(3)
    assert batch.video_BCFHW.shape == (4, *config.video_shape)
    assert batch.video_BCFHW.dtype == batch.text_BS.dtype == torch.float32
    assert batch.text_BS.shape == (4, 12, 16)
    assert batch.has_sound_B.all()
    assert torch.equal(batch.video_BCFHW, same.video_BCFHW)
    captions = {clip.name: clip.caption for clip in index.clips}
    told = [captions[name] for name in batch.names]
    # the shards' encoder ran in bf16 where there is a GPU
    error = 0.1 if torch.cuda.is_available() else 1e-5
    torch.testing.assert_close(
        batch.text_BS, encode_captions(told, encodable, CPU), atol=error, rtol=0
    )
    assert set(validation.names).isdisjoint(batch.names)


@pytest.mark.parametrize("family", ["stream", "wan", "class"])
def test_every_family_trains_resumes_and_samples_on_them(
    family: str,
    encoded: Path,
    trained_on: Callable[..., RunConfig],
    encodable: RunConfig,
    settings: Settings,
    tmp_path: Path,
) -> None:
    changes: dict[str, Any] = {
        "stream": {"watch.are_checkpoints_sampled": True, "checkpoint.disk_every_steps": 2},
        "wan": {"model.family": "wan", "data.num_mel_steps": 0},
        "class": {
            "model.family": "class",
            "model.num_classes": 4,
            "data.num_mel_steps": 0,
            "data.captions": "bytes",
            "data.num_text_bytes": 0,
            "model.has_place_table": True,
        },
    }[family]
    folder = encoded
    if family != "stream":
        folder = tmp_path / "shards"
        its = {**changes, "data.text_encoder": ""} if family == "class" else changes
        encode_clips(changed(encodable, its | {"data.flip_share": 0.5}), folder)
    config = trained_on(folder, **changes)
    whole = train(config, settings=settings, run_id="whole", progress=False)
    assert whole.status == "finished"
    assert np.isfinite(whole.last_loss)
    part = changed(config, {"steps": 2})
    train(part, settings=settings, run_id="part", progress=False)
    resumed = train(config, settings=settings, resume="part", progress=False)
    assert resumed.last_loss == whole.last_loss
    prompts = [] if family == "class" else ["a red circle"]
    made = sample_run(settings, "whole", prompts, Sampling(2), 0, tmp_path / "made")
    assert [path.suffix for path in made] == [".mp4"]
    assert made[0].stat().st_size > 0


class TestGoingOn:
    def test_what_is_missing_or_damaged_is_written_anew_and_equal(
        self, own: Path, encodable: RunConfig
    ) -> None:
        before = contents(own)
        first, second = (shards.shard_path(own, number) for number in range(2))
        first.with_suffix(".json").unlink()
        flipped = bytearray(second.read_bytes())
        flipped[-1] ^= 1
        second.write_bytes(flipped)
        windows = {"data.windows_per_clip": 3, "data.flip_share": 0.5}
        found = encode_clips(changed(encodable, windows), own, clips_per_shard=4)
        assert found.num_kept == 0
        assert contents(own) == before
        again = encode_clips(changed(encodable, windows), own, clips_per_shard=4)
        assert again.num_kept == 2

    def test_another_question_is_refused(self, own: Path, encodable: RunConfig) -> None:
        with pytest.raises(MoescopeError, match=r"was begun with data.flip_share 0.5 \(not 0.0\)"):
            encode_clips(encodable, own, clips_per_shard=4)
        windows = {"data.windows_per_clip": 3, "data.flip_share": 0.5}
        own_choice = {"data.validation_share": 0.1, "data.batch": 2, "data.caption_drop": 0.5}
        same = changed(encodable, windows | own_choice)
        assert encode_clips(same, own, clips_per_shard=4).num_kept == 2

    def test_killed_in_the_middle_it_goes_on_to_the_same_shards(
        self, encodable: RunConfig, tmp_path: Path
    ) -> None:
        config = tmp_path / "config.json"
        config.write_text(encodable.model_dump_json())
        job = (
            "import sys, time; from pathlib import Path\n"
            "from moescope.trainer.config import RunConfig\n"
            "from moescope.trainer.encoders.encode import encode_clips\n"
            "config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())\n"
            "encode_clips(config, Path(sys.argv[2]), clips_per_shard=1)\n"
        )
        stopped, whole = tmp_path / "stopped", tmp_path / "whole"
        process = subprocess.Popen([sys.executable, "-c", job, config, stopped])
        deadline_s = time.monotonic() + 60
        while not list(stopped.glob("shard-*.json")) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        num_there = len(list(stopped.glob("shard-*.json")))
        assert 1 <= num_there < 6
        with pytest.raises(MoescopeError, match=f"not encoded to its end .{num_there} of 6 shards"):
            find_clips(stopped)
        found = encode_clips(encodable, stopped, clips_per_shard=1)
        assert found.num_kept == num_there
        encode_clips(encodable, whole, clips_per_shard=1)
        assert contents(stopped) == contents(whole)
        shards.check_shards(stopped)

    def test_two_at_once_are_refused(self, encodable: RunConfig, tmp_path: Path) -> None:
        folder = tmp_path / "shards"
        folder.mkdir()
        with (folder / ".encoding.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(MoescopeError, match="another process encodes into"):
                encode_clips(encodable, folder)

    def test_a_full_disk_leaves_what_was_written(
        self, encodable: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, calls = shards.save_file, []

        def full(tensors: Any, path: Path) -> None:
            calls.append(path)
            if len(calls) == 2:
                path.write_bytes(b"a part")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(tensors, path)

        monkeypatch.setattr(shards, "save_file", full)
        folder = tmp_path / "shards"
        with pytest.raises(MoescopeError, match="No space left on device; run `moescope data enc"):
            encode_clips(encodable, folder, clips_per_shard=3)
        assert not list(folder.glob("*.unfinished"))
        assert encode_clips(encodable, folder, clips_per_shard=3).num_kept == 1


class TestOneLine:
    def test_a_shard_that_is_cut_off(
        self, own: Path, trained_on: Callable[..., RunConfig], settings: Settings
    ) -> None:
        path = shards.shard_path(own, 1)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(MoescopeError, match=r"shard-00001.safetensors is damaged \(\d+ bytes"):
            train(trained_on(own), settings=settings, progress=False)

    def test_a_flipped_bit_is_found_by_check_and_passed_over_and_told_in_training(
        self,
        own: Path,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        path = shards.shard_path(own, 1)
        flipped = bytearray(path.read_bytes())
        length = int.from_bytes(flipped[:8], "little")
        start, _ = json.loads(flipped[8 : 8 + length])["0.video"]["data_offsets"]
        flipped[8 + length + start] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(MoescopeError, match=r"is damaged \(its checksum differs\)"):
            shards.check_shards(own)
        config = trained_on(own, **{"data.windows_per_clip": 20, "data.validation_share": 0.0})
        index = find_clips(own)
        with Batches(index, config.data, 0) as batches:
            for number in range(12):
                assert batches.get(number).video_BCFHW.isfinite().all()
            bad = batches.bad_clips
        assert list(bad) == [index.clips[4].name]
        assert "is damaged: run `moescope data encode` again" in bad[index.clips[4].name]
        train(
            # a pass and more: every window is drawn
            trained_on(own, steps=5, **{"data.validation_share": 0.0, "data.windows_per_clip": 3}),
            settings=settings,
            run_id="r",
        )
        told = capfd.readouterr().err
        assert f"{index.clips[4].name}: {path} is damaged: run `moescope data encode`" in told

    def test_shards_and_recipes_that_do_not_go_together(
        self,
        encoded: Path,
        clips: Path,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
    ) -> None:
        for folder, changes, said in (
            (encoded, {"data.windows_per_clip": 4}, "holds 3 windows of each clip, but data.win"),
            (encoded, {"data.height": 32}, r"data.height 16 \(not 32\): --set data.height=16"),
            (encoded, {"model.text_width": 32}, "captions of 16 values a token, but model.text_w"),
            (clips, {}, "data.latents is vae, but .* holds clips: make latents of them with"),
            (
                encoded,
                {"data.latents": "none", "data.captions": "bytes"},
                r"data.latents vae \(not none\), data.captions encoder \(not bytes\): --set",
            ),
        ):
            with pytest.raises(MoescopeError, match=said):
                train(trained_on(folder, **changes), settings=settings, progress=False)

    def test_models_that_do_not_fit(
        self, encodable: RunConfig, save_vae: Saver, tmp_path: Path
    ) -> None:
        other = str(save_vae(tmp_path / "vae", channels=8))
        with pytest.raises(MoescopeError, match=r"it has data.latent_channels 8 \(not 4\)"):
            encode_clips(changed(encodable, {"data.vae": other}), tmp_path / "a")
        with pytest.raises(MoescopeError, match=r"of 16 values, but model.text_width is 64"):
            encode_clips(changed(encodable, {"model.text_width": 64}), tmp_path / "b")
        with pytest.raises(MoescopeError, match="--text-encoder is /no/where, which is no folder"):
            encode_clips(changed(encodable, {"data.text_encoder": "/no/where"}), tmp_path / "c")

    def test_a_prompt_without_its_text_encoder(
        self,
        own: Path,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
        save_text: Saver,
        save_vae: Saver,
        tmp_path: Path,
    ) -> None:
        train(trained_on(own, steps=1), settings=settings, run_id="r", progress=False)
        plan = json.loads((own / "encoding.json").read_text())
        moved = plan | {"text_encoder": plan["text_encoder"] | {"path": "/moved/away"}}
        of_run = settings.home_path / "runs" / "r" / "encoding.json"
        of_run.write_text(json.dumps(moved))

        def sample(**options: Any) -> list[Path]:
            return sample_run(settings, "r", ["red"], Sampling(1), 0, tmp_path, **options)

        with pytest.raises(MoescopeError, match=r"data.text_encoder is /moved/away, which is"):
            sample()
        another = save_text(tmp_path / "models")
        (another / "text_encoder" / "config.json").write_text(
            (another / "text_encoder" / "config.json").read_text() + " "
        )
        with pytest.raises(MoescopeError, match=r"is not the one that .* was encoded with"):
            sample(text_encoder=str(another))
        there = str(Path(plan["text_encoder"]["path"]))
        with pytest.raises(MoescopeError, match=r"is not the one that .* was encoded with"):
            sample(text_encoder=there, vae=str(save_vae(tmp_path / "vae", seed=9)))
        with pytest.raises(MoescopeError, match=r"^--vae is /no/where, which is no folder"):
            sample(vae="/no/where")
        # the run keeps what it was trained on, whatever became of its data
        (own / "encoding.json").write_text("{")
        assert len(sample(text_encoder=there)) == 1
        shutil.rmtree(own)
        with pytest.raises(MoescopeError, match=r"is not the one that .* was encoded with"):
            sample(text_encoder=str(another))
        with pytest.raises(MoescopeError, match=r"^give --prompt TEXT, as there are no captions"):
            sample_run(settings, "r", [], Sampling(1), 0, tmp_path, text_encoder=there)

    def test_weights_do_not_go_on_with_another_vae(
        self,
        own: Path,
        encodable: RunConfig,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
        save_vae: Saver,
        tmp_path: Path,
    ) -> None:
        train(trained_on(own, steps=1), settings=settings, run_id="r", progress=False)
        other = changed(
            encodable, {"data.vae": str(save_vae(tmp_path / "vae", seed=9)), "data.flip_share": 0.5}
        )
        encode_clips(other, tmp_path / "others")
        config = trained_on(tmp_path / "others", steps=2)
        for way in ({"resume": "r"}, {"init_from": "r"}):
            with pytest.raises(MoescopeError, match=r"but run .* was trained on that in .*/vae"):
                train(config, settings=settings, progress=False, **way)

    def test_a_damaged_plan_is_not_gone_on_with(self, own: Path, encodable: RunConfig) -> None:
        (own / "encoding.json").write_text("{")
        with pytest.raises(MoescopeError, match=r"encoding.json is damaged.*: encode into another"):
            encode_clips(encodable, own)

    def test_an_upcycled_run_knows_the_vae_of_the_dense_one(
        self,
        own: Path,
        encodable: RunConfig,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
        save_vae: Saver,
        tmp_path: Path,
    ) -> None:
        dense = trained_on(own, steps=1, **{"moe.num_experts": 0})
        train(dense, settings=settings, run_id="dense", progress=False)
        shutil.rmtree(own)
        made = upcycle(settings, "dense", UpcyclePlan(num_experts=4, num_chosen=2), {})
        of_run = Path(made.folder) / "encoding.json"
        assert of_run.read_text() == (of_run.parents[1] / "dense" / "encoding.json").read_text()
        vae = str(save_vae(tmp_path / "vae", seed=9))
        encode_clips(changed(encodable, {"data.vae": vae, "data.flip_share": 0.5}), own)
        resumed = trained_on(own, steps=2, **{"moe.num_experts": 4})
        with pytest.raises(
            MoescopeError,
            match=r"encoded with the VAE in .*, but run tiny-dense-upcycled was trained",
        ):
            train(resumed, settings=settings, resume=made.run_id, progress=False)
        of_run.write_text("{")
        with pytest.raises(
            MoescopeError, match=r"put encoding.json of the run's data in its place"
        ):
            sample_run(settings, made.run_id, ["red"], Sampling(1), 0, tmp_path)

    def test_a_run_samples_when_its_shards_are_gone(
        self,
        own: Path,
        trained_on: Callable[..., RunConfig],
        settings: Settings,
        tmp_path: Path,
    ) -> None:
        train(trained_on(own, steps=1), settings=settings, run_id="r", progress=False)
        shutil.rmtree(own)
        prompts = ["red", "Größe", "红球"]
        made = sample_run(settings, "r", prompts, Sampling(1), 0, tmp_path / "made")
        names = ["red-seed0-0.mp4", "größe-seed0-1.mp4", "红球-seed0-2.mp4"]
        assert [path.name for path in made] == names

    def test_what_holds_something_else(self, encodable: RunConfig, own: Path, clips: Path) -> None:
        with pytest.raises(MoescopeError, match=r"holds other files .*: name a folder that"):
            encode_clips(encodable, clips)
        with pytest.raises(MoescopeError, match=r"lies among the clips of .*: name a folder else"):
            encode_clips(encodable, clips / "shards")
        with pytest.raises(MoescopeError, match="is encoded already: name a folder of clips"):
            encode_clips(changed(encodable, {"data.folder": str(own)}), own)

    def test_frames_that_a_video_vae_cannot_cut(self, encodable: RunConfig) -> None:
        with pytest.raises(MoescopeError, match=r"1 more than a multiple .*: use 5 or 9"):
            changed(encodable, {"data.num_frames": 8})
        with pytest.raises(MoescopeError, match=r"data.captions is encoder, but data.latents is"):
            changed(encodable, {"data.latents": "none", "data.num_frames": 4})
