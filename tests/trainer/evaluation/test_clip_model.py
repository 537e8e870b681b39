"""CLIP answers as transformers' own model does, without what transformers would fetch."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from moescope.platform.errors import MoescopeError
from moescope.trainer.encoders import local
from moescope.trainer.evaluation.clip_model import load_clip
from moescope.trainer.evaluation.scores import caption_cosine, neighbour_cosine

CPU = torch.device("cpu")
CAPTIONS = ["a red ball", "a caption of more letters than are read", "noon"]


def levels(num_clips: int = 3) -> Tensor:
    """Clips of four frames that differ, wider than high."""
    chance = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_clips * 4, 3, 4, 6, generator=chance)
    frames = torch.nn.functional.interpolate(coarse, (24, 36), mode="bicubic").clamp(0, 1)
    return (frames * 255).round().to(torch.uint8).unflatten(0, (num_clips, 4)).transpose(1, 2)


def prepared(frame_CHW: Tensor) -> Tensor:
    """As openai/CLIP has it: the shorter side to the network's, the middle, normalised."""
    picture = Image.fromarray(frame_CHW.permute(1, 2, 0).numpy())
    picture = picture.resize((30, 20), Image.Resampling.BICUBIC).crop((5, 0, 25, 20))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy((np.asarray(picture) / 255 - mean) / std).permute(2, 0, 1).float()


def test_clipsim_is_the_cosine_behind_logits_per_image(networks: Path) -> None:
    clip = load_clip(networks, CPU)
    clips = levels()
    found = caption_cosine(clip.frames(clips), clip.captions(CAPTIONS))
    theirs: Any = transformers.CLIPModel.from_pretrained(networks / "clip").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(networks / "clip")
    for place, caption in enumerate(CAPTIONS):
        pixels = torch.stack([prepared(clips[place, :, f]) for f in range(4)])
        ids = tokenizer(caption, truncation=True, max_length=12, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = theirs(input_ids=ids, pixel_values=pixels).logits_per_image
            expected = (logits / theirs.logit_scale.exp()).mean()
        assert found[place] == pytest.approx(float(expected), abs=1e-4)
    assert found.std() > 0.01


def test_frames_are_directions_in_the_order_of_clip_and_time(networks: Path) -> None:
    clip = load_clip(networks / "clip", CPU)
    clips = levels(20)
    # eighty frames are more than are looked at together
    unit_BFP = clip.frames(clips)
    assert unit_BFP.shape == (20, 4, 8)
    assert np.linalg.norm(unit_BFP, axis=-1) == pytest.approx(1.0)
    assert clip.frames(clips[19:, :, 2:3])[0, 0] == pytest.approx(unit_BFP[19, 2], abs=1e-5)
    still = clips[:1, :, :1].expand(-1, -1, 4, -1, -1)
    assert neighbour_cosine(clip.frames(still)) == pytest.approx([1.0])
    assert neighbour_cosine(unit_BFP[:1])[0] < 0.999


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        pytest.param("model.safetensors", "has no weights", id="weights"),
        pytest.param("config.json", "has no config.json", id="configuration"),
        pytest.param("preprocessor_config.json", "does not say how pictures", id="preparation"),
        pytest.param("tokenizer.json", "has no tokenizer", id="tokenizer"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(
    networks: Path, tmp_path: Path, gone: str, expected: str
) -> None:
    folder = shutil.copytree(networks / "clip", tmp_path / "own")
    (folder / gone).unlink()
    with pytest.raises(MoescopeError, match=expected):
        load_clip(folder, CPU)


def test_another_model_is_refused(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(networks / "clip", tmp_path / "own")
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(MoescopeError, match=r"the model in .*own cannot be loaded") as caught:
        load_clip(folder, CPU)
    assert "\n" not in str(caught.value)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "siglip"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MoescopeError, match="of kind siglip, but a clip is needed"):
        load_clip(folder, CPU)
    with pytest.raises(MoescopeError, match=r"--clip is .*, which is no folder"):
        load_clip(tmp_path / "gone", CPU)

    def missing(name: str) -> Any:
        raise ImportError(name=name)

    monkeypatch.setattr(local, "import_module", missing)
    with pytest.raises(MoescopeError, match=r"not installed: pip install 'moescope\[latents\]'"):
        load_clip(networks / "clip", CPU)
