"""How far made clips are from real ones: the Fréchet distance of their features, and features of a
fixed random network.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..data.chance import generator

# B clips  C channels  F frames  H, W pixels  N mels  M mel steps  P features

FEATURE_SEED = 20_240_607
"""Fixed for ever: distances of different runs, machines and versions are comparable."""
NUM_FIRST, NUM_SECOND = 32, 64


def random_features(video_BCFHW: Tensor, mel_BNM: Tensor) -> NDArray[np.float64]:
    """Returns (B, 2 * 64) features: two random convolutions with ReLU each, averaged over places,
    for pictures and for sound.

    Random filters see colours, edges, motion and ridges of sound without any training set. Their
    averages forget where things are. Source: random networks as feature extractors,
    arXiv 1904.02144 (Fréchet distance with random features).
    """
    video = F.relu(
        F.conv3d(video_BCFHW.cpu().float(), _filters("video", 3, (2, 3, 3), 1), stride=(1, 2, 2))
    )
    video = F.relu(F.conv3d(video, _filters("video", NUM_FIRST, (2, 3, 3), 2), stride=(2, 2, 2)))
    sound = F.relu(F.conv2d(mel_BNM.cpu().float()[:, None], _filters("sound", 1, (3, 3), 1)))
    sound = F.relu(F.conv2d(sound, _filters("sound", NUM_FIRST, (3, 3), 2), stride=2))
    pooled = torch.cat([video.flatten(2).mean(2), sound.flatten(2).mean(2)], dim=1)
    features: NDArray[np.float64] = pooled.double().numpy()
    return features


def frechet_distance(real_BP: NDArray[np.float64], made_BP: NDArray[np.float64]) -> float:
    """Returns the squared Fréchet distance of two sets of features, taken as Gaussian.

    |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1^(1/2) C_2 C_1^(1/2))^(1/2))
    At least two clips each. With fewer clips than features the distance is biased upwards, alike
    for sets of the same size: compare only such. Source: arXiv 1706.08500, equation 6.
    """
    mean_gap = real_BP.mean(0) - made_BP.mean(0)
    # a single feature has a variance, and no matrix
    real_PP, made_PP = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real_BP, made_BP))
    root_PP = _root(real_PP)
    overlap = np.trace(_root(root_PP @ made_PP @ root_PP))
    distance = mean_gap @ mean_gap + np.trace(real_PP) + np.trace(made_PP) - 2 * overlap
    return max(0.0, float(distance))


def _root(matrix_PP: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix_PP)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def _filters(what: str, channels: int, kernel: tuple[int, ...], layer: int) -> Tensor:
    """Draws a layer's filters, normal with variance 2 / fan-in, which keeps the scale of
    activations. Source: arXiv 1502.01852.
    """
    outputs = NUM_FIRST if layer == 1 else NUM_SECOND
    shape = (outputs, channels, *kernel)
    fan_in = channels * math.prod(kernel)
    values = generator(FEATURE_SEED, what, layer, "frechet").standard_normal(shape)
    return torch.from_numpy((values * math.sqrt(2 / fan_in)).astype(np.float32))
