"""Scores of single clips, and of what a classifier says of frames: pure arithmetic."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from torch import Tensor

# B clips  C colours  F frames  H, W pixels  N frames of all clips  K classes  P features


def stillness(levels_BCFHW: Tensor) -> NDArray[np.float64]:
    """Returns for each clip how little its pixels change: 1 - mean |x[f + 1] - x[f]| / 255, (B,).

    levels_BCFHW: uint8, at least two frames. 1 for a clip that stands still, so that more is not
    better: compare with held-out clips, which move as they should. Source: temporal flickering of
    VBench, arXiv 2311.17982.
    """
    # clip by clip: as floats they take four times the room
    means = [(x[:, 1:].float() - x[:, :-1].float()).abs().mean().item() for x in levels_BCFHW]
    return 1 - np.array(means) / 255


def neighbour_cosine(unit_BFP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns for each clip the mean cosine of the features of neighbouring frames, (B,).

    unit_BFP: of length 1, at least two frames. Source: CLIP-Temp of EvalCrafter, arXiv 2310.11440.
    """
    cosine_BF = (unit_BFP[:, 1:] * unit_BFP[:, :-1]).sum(-1)
    mean_B: NDArray[np.float64] = cosine_BF.mean(1)
    return mean_B


def caption_cosine(
    unit_BFP: NDArray[np.float64], caption_BP: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns for each clip the mean cosine of its frames' features and its caption's, (B,).

    Both of length 1. Source: CLIPSIM of GODIVA, arXiv 2104.14806.
    """
    cosine_BF = (unit_BFP * caption_BP[:, None]).sum(-1)
    mean_B: NDArray[np.float64] = cosine_BF.mean(1)
    return mean_B


def inception_score(share_NK: NDArray[np.float64]) -> float:
    """Returns exp(mean_n KL(p_n | mean_n p_n)) of the classes' probabilities on frames.

    From 1 (all frames look alike to the classifier) to the number of classes or of frames,
    whichever is less. Over all frames at once, while published scores are means over ten parts of
    5,000: with few frames parts of them would only lower it. Source: arXiv 1606.03498, section 4.
    """
    # 0 log 0 is 0
    return float(np.exp(rel_entr(share_NK, share_NK.mean(0)).sum(1).mean()))
