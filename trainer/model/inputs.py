"""What every network is given and what it answers with."""

from typing import NamedTuple

from torch import Tensor

# B batch  C channels  F frames  H, W cells  N mels  M mel steps, or modality in sigma_MB
# S text bytes, or tokens  T width of their vectors


class Inputs(NamedTuple):
    """A batch as a network sees it; a family leaves alone what it has no use for."""

    video_BCFHW: Tensor
    """fp32, noisy: (1 - sigma) * data + sigma * noise, pixels or latents."""
    mel_BNM: Tensor
    """fp32, noisy; M is 0 without sound."""
    text_BS: Tensor
    """int64: UTF-8 byte + 1, 0 is padding or a caption left out; S is 0 without captions. Or fp32
    (B, S, T): vectors of a text encoder, zeros where there is no token or the caption is left
    out."""
    label_B: Tensor
    """int64: the clip's class; `num_classes` where it is left out."""
    reference_BCHW: Tensor | None
    """fp32: the clip's first frame without noise, zeros where it is left out; None without."""
    sigma_MB: Tensor
    """(2, B) fp32: noise levels of video and audio, 0 is data and 1 is noise."""
    host_sigma_MB: Tensor | None = None
    """The same on the host, where they are known there without waiting for the device."""

    def rows(self, index_n: Tensor) -> "Inputs":
        """Returns the samples with these numbers (int64), without their levels on the host."""
        return Inputs(
            self.video_BCFHW[index_n],
            self.mel_BNM[index_n],
            self.text_BS[index_n],
            self.label_B[index_n],
            None if self.reference_BCHW is None else self.reference_BCHW[index_n],
            self.sigma_MB[:, index_n],
        )


class Flow(NamedTuple):
    """noise - data of video and audio, fp32 in the inputs' shapes."""

    video_BCFHW: Tensor
    mel_BNM: Tensor
