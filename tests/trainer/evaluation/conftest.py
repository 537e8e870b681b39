"""Small networks that look at clips, saved as the public ones are, and runs of two steps."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.run import train

CLIP_SIDE = 20


class Inception(nn.Module):
    """Is called as inception-2015-12-05.pt is; six features and five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 6, 3, stride=2)
        self.output = nn.Linear(6, 5)
        # certain enough that frames differ by class
        self.output.weight.data.mul_(30)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        features = torch.relu(self.filters((img.float() - 128) / 32)).mean((2, 3))
        if return_features:
            return features
        if no_output_bias:
            return nn.functional.linear(features, self.output.weight).softmax(1)
        return self.output(features).softmax(1)


class Motion(nn.Module):
    """Is called as i3d_torchscript.pt is; six features, and as few frames as it are too few."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv3d(3, 6, (3, 5, 5), stride=(1, 8, 8))

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        assert return_features
        assert not rescale
        assert not resize
        return torch.relu(self.filters(x)).mean((2, 3, 4))


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def saved(module: nn.Module, path: Path) -> Path:
    """Saves a module as TorchScript."""
    with warnings.catch_warnings():
        # public networks are given as such files, whatever torch would have instead
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


@pytest.fixture(scope="session")
def script() -> Callable[[nn.Module, Path], Path]:
    return saved


@pytest.fixture(scope="session")
def inception() -> nn.Module:
    return seeded(Inception)


@pytest.fixture(scope="session")
def motion() -> nn.Module:
    return seeded(Motion)


@pytest.fixture(scope="session")
def networks(
    inception: nn.Module, motion: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with images.pt, videos.pt and a CLIP in clip/."""
    folder = tmp_path_factory.mktemp("networks")
    saved(inception, folder / "images.pt")
    saved(motion, folder / "videos.pt")
    save_clip(folder / "clip")
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP that reads a token for each letter, twelve at the most."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config: Any = transformers.CLIPConfig(
        text_config={
            **small,
            "num_attention_heads": 2,
            "vocab_size": 64,
            "max_position_embeddings": 12,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            **small,
            "num_attention_heads": 2,
            "image_size": CLIP_SIDE,
            "patch_size": 10,
        },
        projection_dim=8,
    )
    model: Any = transformers.CLIPModel
    clip = model(config)
    with torch.no_grad():
        # as it is drawn, all that it sees lies in nearly one direction
        for weight in clip.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    clip.save_pretrained(folder)
    preparation: Any = transformers.CLIPImageProcessorPil
    preparation(size={"shortest_edge": CLIP_SIDE}, crop_size=CLIP_SIDE).save_pretrained(folder)
    letters = "_ abcdefghijklmnopqrstuvwxyz0123456789.,-:"
    words = {"<pad>": 0, "<start>": 1, "<end>": 2, **{c: i + 3 for i, c in enumerate(letters)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="_"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="_"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"": tmp_path_factory.mktemp("homes")}


@pytest.fixture
def trained(small: RunConfig, homes: dict[str, Path]) -> Callable[..., Settings]:
    """Returns the settings under which run r is two steps of `small` with these changes, trained
    once."""

    def run(**changes: Any) -> Settings:
        key = str(sorted(changes.items()))
        if key not in homes:
            home = homes[""] / f"{len(homes)}"
            config = changed(small, {"steps": 2, "data.validation_share": 0.3, **changes})
            train(config, settings=Settings(home=home, mlflow="off"), run_id="r", progress=False)
            homes[key] = home
        return Settings(home=homes[key], mlflow="off")

    return run
