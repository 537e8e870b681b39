"""Public VAEs and text encoders answer as the libraries they come from do."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.encoders import local
from moescope.trainer.encoders.text import encode_captions, load_text_encoder
from moescope.trainer.encoders.vae import Shape, load_vae, vae_of

CPU = torch.device("cpu")
Saver = Callable[..., Path]
CAPTIONS = ["a red ball", "", "a much longer caption than that, of many more letters"]


def video(num_clips: int, num_frames: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(num_clips, 3, num_frames, 16, 16) * 2 - 1


def test_a_video_vae_encodes_and_decodes_as_diffusers_pipeline_does(wan_vae: Path) -> None:
    vae, clips = load_vae(str(wan_vae), CPU), video(2, 9)
    theirs = diffusers.AutoencoderKLWan.from_pretrained(wan_vae)
    with torch.no_grad():
        # as WanPipeline and WanImageToVideoPipeline: (z - mean) * (1 / std)
        expected = (theirs.encode(clips).latent_dist.mode() - 0.1) / 0.5
        back = theirs.decode(expected * 0.5 + 0.1).sample.clamp(-1, 1)
    assert vae.shape == Shape(latent_channels=4, latent_size=4, latent_frames=4)
    assert vae.encode(clips).shape == (2, 4, 3, 4, 4)
    torch.testing.assert_close(vae.encode(clips), expected)
    torch.testing.assert_close(vae.decode(expected), back)


def test_a_vae_of_pictures_takes_a_clip_frame_by_frame(image_vae: Path) -> None:
    vae, clips = load_vae(str(image_vae), CPU), video(2, 3)
    theirs = diffusers.AutoencoderKL.from_pretrained(image_vae)
    with torch.no_grad():
        # as StableDiffusion3Pipeline: (z - shift_factor) * scaling_factor
        frame = (theirs.encode(clips[1, :, 2][None]).latent_dist.mode() - 0.2) * 0.7
        back = theirs.decode(frame / 0.7 + 0.2).sample.clamp(-1, 1)
    latents = vae.encode(clips)
    assert vae.shape == Shape(latent_channels=4, latent_size=2, latent_frames=1)
    torch.testing.assert_close(latents[1, :, 2], frame[0])
    torch.testing.assert_close(vae.decode(latents)[1, :, 2], back[0])


def test_many_clips_are_taken_in_parts(wan_vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, clips = load_vae(str(wan_vae), CPU), video(3, 5)
    whole = vae.encode(clips)
    monkeypatch.setattr("moescope.trainer.encoders.vae.MOST_PIXELS", 1)
    torch.testing.assert_close(vae.encode(clips), whole)
    assert vae.decode(whole).shape == clips.shape


@pytest.mark.parametrize("kind", ["umt5", "t5"])
def test_a_caption_is_read_as_transformers_reads_it_alone(
    kind: str, save_text: Saver, tmp_path: Path
) -> None:
    folder = save_text(tmp_path, kind)
    found = load_text_encoder(str(folder), CPU).encode(CAPTIONS, 16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = transformers.AutoModelForTextEncoding.from_pretrained(folder / "text_encoder")
    for caption, vectors in zip(CAPTIONS, found, strict=True):
        if not caption:
            assert vectors.shape == (0, 16)
            continue
        ids = tokenizer(caption, truncation=True, max_length=16, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
    assert [len(vectors) for vectors in found] == [len("a red ball") + 1, 0, 16]


def test_a_caption_is_followed_by_zeros(encodable: RunConfig) -> None:
    text = encode_captions(["red", ""], encodable, CPU)
    assert text.shape == (2, 12, 16)
    assert text[0, :4].abs().min() > 0
    assert not text[0, 4:].any()
    assert not text[1].any()


class TestOneLine:
    """What is wrong with a model is one line that says what to do."""

    def test_a_folder_that_is_not_there(self) -> None:
        with pytest.raises(MoescopeError, match=r"data.vae is /no/where, which is no folder"):
            load_vae("/no/where", CPU)

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(MoescopeError, match=r"no config.json, nor has vae/ in it"):
            load_vae(str(tmp_path), CPU)

    def test_a_folder_without_weights(self, save_vae: Saver, tmp_path: Path) -> None:
        save_vae(tmp_path)
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(MoescopeError, match=r"has no weights: put the model's \*.safetensors"):
            load_vae(str(tmp_path), CPU)

    def test_weights_that_are_cut_off(self, save_vae: Saver, tmp_path: Path) -> None:
        weights = save_vae(tmp_path) / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(
            MoescopeError, match=r"safetensors is damaged \(.*\): put its config.json"
        ) as caught:
            load_vae(str(tmp_path), CPU)
        assert "\n" not in str(caught.value)

    def test_a_configuration_that_contradicts_itself(self, save_vae: Saver, tmp_path: Path) -> None:
        config = save_vae(tmp_path) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": [0.1] * 3}))
        with pytest.raises(MoescopeError, match=r"3 means and 4 deviations for 4 latent channels"):
            load_vae(str(tmp_path), CPU)

    def test_a_tokenizer_of_another_encoder(self, save_text: Saver, tmp_path: Path) -> None:
        there = save_text(tmp_path) / "tokenizer"
        words = (there / "tokenizer.json").read_text()
        (there / "tokenizer.json").write_text(words.replace('"a": 5', '"a": 500'))
        with pytest.raises(
            MoescopeError, match=r"words up to number 500, but the encoder knows 64"
        ):
            load_text_encoder(str(tmp_path), CPU)
        (there / "tokenizer.json").write_text(words)
        settings = json.loads((there / "tokenizer_config.json").read_text())
        del settings["pad_token"]
        (there / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(MoescopeError, match=r"has no padding: put the encoder's own there"):
            load_text_encoder(str(tmp_path), CPU)

    def test_weights_of_another_name_are_all_that_is_said(
        self, save_vae: Saver, tmp_path: Path, clips: Path
    ) -> None:
        """In a process of its own: the libraries write to the stderr that they found first."""
        weights = save_vae(tmp_path / "vae") / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("wan_vae.safetensors"))
        there = [str(clips), str(tmp_path / "to"), "--vae", str(tmp_path / "vae")]
        command = [sys.executable, "-m", "moescope.cli", "data", "encode", *there]
        sets = ("data.num_frames=5", "data.latent_frames=4", "model.patch_frames=1")
        small = ("data.latent_size=4", "model.patch_size=2")
        fit = [option for text in (*sets, *small) for option in ("--set", text)]
        told = subprocess.run([*command, *fit], capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert told.stderr.count("\n") == 1
        assert "no file named diffusion_pytorch_model.safetensors" in told.stderr

    @pytest.mark.parametrize("is_missing", [True, False])
    def test_weights_with_a_gap_or_of_another_shape(
        self,
        is_missing: bool,
        save_vae: Saver,
        save_text: Saver,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        for path, name, load in (
            (
                save_vae(tmp_path / "vae") / "diffusion_pytorch_model.safetensors",
                "post_quant_conv.bias",
                load_vae,
            ),
            (
                save_text(tmp_path / "text") / "text_encoder" / "model.safetensors",
                "encoder.final_layer_norm.weight",
                load_text_encoder,
            ),
        ):
            tensors = load_file(path)
            gap = tensors.pop(name)
            if not is_missing:
                tensors[name] = torch.cat([gap, gap])
            save_file(tensors, path, {"format": "pt"})
            capfd.readouterr()  # of saving: only what loading says counts
            with pytest.raises(
                MoescopeError, match=r"anew, under the names as they were published"
            ) as caught:
                load(str(path.parent.parent if load is load_text_encoder else path.parent), CPU)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
            assert capfd.readouterr() == ("", "")

    def test_a_text_encoder_that_lacks_one_of_its_files(
        self, save_text: Saver, tmp_path: Path
    ) -> None:
        there = save_text(tmp_path) / "text_encoder"
        weights = there / "model.safetensors"
        index = {
            "metadata": {},
            "weight_map": dict.fromkeys(load_file(weights), "part-2.safetensors"),
        }
        (there / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.rename(there / "part-1.safetensors")
        with pytest.raises(MoescopeError, match=r"part-2.safetensors.*: put its config.json and"):
            load_text_encoder(str(tmp_path), CPU)

    def test_another_kind_of_model(self, tmp_path: Path, text_encoder: Path, wan_vae: Path) -> None:
        with pytest.raises(MoescopeError, match="kind None, but a VAE is needed: AutoencoderKLWan"):
            load_vae(str(text_encoder / "text_encoder"), CPU)
        with pytest.raises(MoescopeError, match="kind None, but a text encoder is needed: t5"):
            load_text_encoder(str(wan_vae), CPU)

    def test_a_text_encoder_without_a_tokenizer(self, text_encoder: Path, tmp_path: Path) -> None:
        alone = tmp_path / "alone"
        alone.mkdir()
        for path in (text_encoder / "text_encoder").iterdir():
            (alone / path.name).write_bytes(path.read_bytes())
        with pytest.raises(MoescopeError, match=r"has no tokenizer: put tokenizer.json or spiece"):
            load_text_encoder(str(alone), CPU)

    def test_channels_that_do_not_fit_the_recipe(self, encodable: RunConfig) -> None:
        config = changed(encodable, {"data.latent_channels": 16})
        with pytest.raises(
            MoescopeError,
            match=r"does not fit the recipe, it has data.latent_channels 4 \(not 16\): "
            r"--set data.latent_channels=4",
        ):
            vae_of(config, CPU)

    def test_a_text_encoder_of_another_width(self, encodable: RunConfig) -> None:
        config = changed(encodable, {"model.text_width": 4096})
        with pytest.raises(MoescopeError, match=r"of 16 values, but model.text_width is 4096"):
            encode_captions(["red"], config, CPU)

    def test_a_path_that_is_empty(self, encodable: RunConfig) -> None:
        with pytest.raises(
            MoescopeError, match=r"data.vae is empty: give the folder of the model's"
        ):
            vae_of(changed(encodable, {"data.vae": ""}), CPU)

    def test_a_library_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(local, "import_module", missing)
        with pytest.raises(
            MoescopeError, match=r"diffusers is not installed: pip install 'moescope\[latents\]'"
        ):
            local.library("diffusers")
