"""Networks that look at clips: what they are told, what they answer, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from moescope.platform.errors import MoescopeError
from moescope.trainer.evaluation.extractors import ImageFeatures, VideoFeatures
from moescope.trainer.evaluation.frechet import frechet_distance
from moescope.trainer.evaluation.scores import inception_score

CPU = torch.device("cpu")
Script = Callable[[nn.Module, Path], Path]


def levels(num_clips: int, num_frames: int = 4, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    shape = (num_clips, 3, num_frames, 12, 16)
    return torch.randint(60 * seed, 256, shape, generator=chance, dtype=torch.uint8)


class Told(nn.Module):
    """Tells as features what it was told."""

    def forward(self, x: Tensor) -> Tensor:
        shape = torch.tensor(x.shape[1:]).float().repeat(len(x), 1)
        ends = [x.flatten(1).amin(1), x.flatten(1).amax(1), torch.ones(len(x)) * x.element_size()]
        return torch.cat([torch.stack([end.float() for end in ends], 1), shape], 1)


class Matrix(nn.Module):
    """Answers with a matrix of its own, whatever it is told."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Buffer(answer)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer


class NoShares(nn.Module):
    """Gives logits where probabilities are asked for."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return x.float().mean((2, 3))


def test_pictures_are_bytes_at_their_own_size(tmp_path: Path, script: Script) -> None:
    told = ImageFeatures(script(Told(), tmp_path / "told.pt"), CPU)
    assert not told.knows_classes
    clips = levels(2)
    clips[:, 0, :, 0, 0], clips[:, 0, :, 0, 1] = 0, 255
    # least, most, bytes of a value; colours, height, width
    assert told.features(clips).tolist() == [[0, 255, 1, 3, 12, 16]] * 8


def test_videos_are_squares_from_minus_one_to_one(tmp_path: Path, script: Script) -> None:
    told = VideoFeatures(script(Told(), tmp_path / "told.pt"), CPU)
    video = torch.zeros(9, 3, 5, 12, 16, dtype=torch.uint8)
    video[:, :, :, :, 8:] = 255
    # nine are more than are looked at together
    expected = np.array([[-1, 1, 4, 3, 5, 224, 224]] * 9)
    assert told.features(video) == pytest.approx(expected, abs=1e-6)


# it keeps all that it is given, and of one part it has no spread: neither is ours
@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_the_figures_of_frames_are_those_of_torchmetrics(
    networks: Path, inception: nn.Module
) -> None:
    # seconds to import: nobody else pays for it
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    real, made = levels(20), levels(20, seed=1)
    ours = ImageFeatures(networks / "images.pt", CPU)
    distance = frechet_distance(ours.features(real), ours.features(made))

    class Features(nn.Module):
        num_features = 6

        def forward(self, img: Tensor) -> Tensor:
            answer: Tensor = inception(img, return_features=True)
            return answer

    class Logits(nn.Module):
        def forward(self, img: Tensor) -> Tensor:
            answer: Tensor = inception(img, no_output_bias=True).log()
            return answer

    theirs = FrechetInceptionDistance(feature=Features())
    theirs.set_dtype(torch.float64)
    score = InceptionScore(feature=Logits(), splits=1)
    with torch.no_grad():
        theirs.update(real.transpose(1, 2).flatten(0, 1), real=True)
        theirs.update(made.transpose(1, 2).flatten(0, 1), real=False)
        score.update(made.transpose(1, 2).flatten(0, 1))
    assert distance == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert distance > 0.1
    ours_of_made = inception_score(ours.class_shares(made))
    assert ours_of_made == pytest.approx(float(score.compute()[0]), rel=1e-4)
    assert ours_of_made > 1.02


def test_the_distance_of_videos_is_that_of_the_formula_with_a_root_of_the_product(
    networks: Path, motion: nn.Module
) -> None:
    real, made = levels(20), levels(20, seed=1)
    ours = VideoFeatures(networks / "videos.pt", CPU)
    found = frechet_distance(ours.features(real), ours.features(made))
    features = []
    for clips in (real, made):
        pixels = clips.float() / 127.5 - 1
        # one frame after another, along time as it is
        frames = [
            nn.functional.interpolate(pixels[:, :, f], (224, 224), mode="bilinear")
            for f in range(4)
        ]
        with torch.no_grad():
            features.append(motion(torch.stack(frames, 2), return_features=True).double().numpy())
    gap = features[0].mean(0) - features[1].mean(0)
    real_PP, made_PP = (np.cov(x.T) for x in features)
    root_PP = scipy.linalg.sqrtm(real_PP @ made_PP).real
    expected = gap @ gap + np.trace(real_PP + made_PP - 2 * root_PP)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 1e-3


def test_classes_are_asked_for_without_the_bias(networks: Path, inception: nn.Module) -> None:
    images = ImageFeatures(networks / "images.pt", CPU)
    assert images.knows_classes
    found = images.class_shares(levels(40))
    with torch.no_grad():
        expected = inception(levels(40).transpose(1, 2).flatten(0, 1), no_output_bias=True)
    assert found == pytest.approx(expected.numpy(), rel=1e-5)


def test_what_is_no_torchscript_is_refused_on_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "words.pt").write_text("no network")
    for name, expected in (
        ("gone.pt", r"--image-features .*gone\.pt: there is no such file; a TorchScript"),
        ("weights.pt", r"--image-features .*weights\.pt is no TorchScript"),
        ("words.pt", r"--image-features .*words\.pt is no TorchScript"),
    ):
        with pytest.raises(MoescopeError, match=expected) as caught:
            ImageFeatures(tmp_path / name, CPU)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(torch.zeros(8, 4, 1, 1), r"gives float32 \(8, 4, 1, 1\) for", id="not a row"),
        pytest.param(torch.zeros(7, 4), r"\(8, P\) are needed", id="a frame is missing"),
        pytest.param(torch.full((8, 4), torch.inf), "are not finite", id="not finite"),
    ],
)
def test_features_that_are_no_matrix_of_numbers_are_refused(
    tmp_path: Path, script: Script, answer: Tensor, expected: str
) -> None:
    images = ImageFeatures(script(Matrix(answer), tmp_path / "matrix.pt"), CPU)
    with pytest.raises(MoescopeError, match=expected):
        images.features(levels(2))


def test_a_network_that_fails_says_on_what(tmp_path: Path, script: Script, networks: Path) -> None:
    videos = VideoFeatures(networks / "videos.pt", CPU)
    with pytest.raises(MoescopeError, match=r"fails on float32 \(1, 3, 2, 224, 224\): .*[Kk]ernel"):
        videos.features(levels(1, num_frames=2))
    no_shares = ImageFeatures(script(NoShares(), tmp_path / "logits.pt"), CPU)
    with pytest.raises(MoescopeError, match="gives no probabilities of classes: they add up to"):
        no_shares.class_shares(levels(2))
