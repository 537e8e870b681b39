"""Clips into tokens and back: patches of video, stretches of audio, bytes of text, and noise levels
into conditions.
"""

import math

import torch
from torch import Tensor, nn

from ..config import RunConfig

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps  S tokens  P values of a patch  D
# width  T width of a text encoder's vectors

TEXT_VOCABULARY = 257
"""Bytes 1 to 256, and 0: padding or a caption left out."""
GRAMS = (4, 8)
"""Lengths of the hashed byte n-grams: about a word, and a word with what stands before it."""
GRAM_BUCKETS = 1024
SINUSOIDS = 256
"""Width of a noise level's sinusoidal code. Source: facts: model.md section 6."""


def patch_video(video_BCFHW: Tensor, config: RunConfig) -> Tensor:
    """Cuts frames into patches: (B, C, F, H, W) -> (B, S, P), P = patch_frames * patch_size^2 * C,
    time outermost. A single frame becomes patches of one frame.
    """
    batch, colours, frames, height, width = video_BCFHW.shape
    f, p = min(config.model.patch_frames, frames), config.model.patch_size
    cut = video_BCFHW.reshape(batch, colours, frames // f, f, height // p, p, width // p, p)
    return cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, f * p * p * colours)


def unpatch_video(patch_BSP: Tensor, config: RunConfig) -> Tensor:
    """Is the inverse of `patch_video`."""
    f, p = config.model.patch_frames, config.model.patch_size
    cut = patch_BSP.reshape(patch_BSP.shape[0], *config.grid, f, p, p, config.video_shape[0])
    video_BCFHW = cut.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return video_BCFHW.reshape(patch_BSP.shape[0], *config.video_shape)


def patch_mel(mel_BNM: Tensor, config: RunConfig) -> Tensor:
    """Cuts the mel spectrogram into stretches of all bands: (B, N, M) -> (B, S, P), P =
    patch_mel_steps * N.
    """
    batch, _, steps = mel_BNM.shape
    p = config.model.patch_mel_steps
    return mel_BNM.transpose(1, 2).reshape(batch, steps // p, p * mel_BNM.shape[1])


def unpatch_mel(patch_BSP: Tensor, config: RunConfig) -> Tensor:
    """Is the inverse of `patch_mel`."""
    d = config.data
    return patch_BSP.reshape(patch_BSP.shape[0], d.num_mel_steps, d.num_mels).transpose(1, 2)


def sinusoids(sigma: Tensor, width: int = SINUSOIDS, scale: float = 1000.0) -> Tensor:
    """Codes noise levels: cos and sin of scale * sigma * 10000^(-j / (width / 2)), cosines first.
    (...) -> (..., width).

    Source: facts: model.md section 6; equals diffusers' get_timestep_embedding(scale * sigma,
    width, flip_sin_to_cos=True, downscale_freq_shift=0).
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=sigma.device) / half
    angle = scale * sigma.float()[..., None] * torch.exp(-math.log(10_000.0) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class NoiseLevels(nn.Module):
    """Turns the noise levels of a sample's video and audio into one condition per kind of token.

    e_m = W_2 silu(W_1 sinusoids(sigma_m)); video: e_video, audio: e_audio, text: their mean; plus a
    learned vector of the kind. The activation that adaLN wants in front of its linear map is
    applied here, once for all blocks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(SINUSOIDS, width)
        self.w_out = nn.Linear(width, width)
        self.kind_GD = nn.Parameter(torch.randn(3, width) * 0.02)

    def forward(self, sigma_MB: Tensor, summary_BD: Tensor) -> Tensor:
        """sigma_MB: (2, B), 0 is data and 1 is noise. Returns (B, 3, D) in the stream's order:
        text, video, audio.
        """
        e_MBD = self.w_out(nn.functional.silu(self.w_in(sinusoids(sigma_MB))))
        by_kind = torch.stack([e_MBD.mean(0), e_MBD[0], e_MBD[1]], dim=1)
        return nn.functional.silu(by_kind + self.kind_GD + summary_BD[:, None])


class ByteEmbedding(nn.Module):
    """Turns a caption's bytes into vectors, and those into tokens.

    e[s] = byte[b_s] + sum over n of gram_n[hash(b_s, b_(s-1), ..., b_(s-n+1))]: a letter says
    little, and reading words out of letters is a long way to learn; hashed n-grams know them at
    once, of any language.
    token = the sum of e over a token's `patch` bytes / sqrt(patch). Source: byte n-gram embeddings
    of BLT, arXiv 2412.09871 section 3.2.1.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.byte = nn.Embedding(TEXT_VOCABULARY, width)
        self.gram = nn.Embedding(len(GRAMS) * GRAM_BUCKETS, width)

    def embed(self, text_BS: Tensor) -> Tensor:
        """text_BS: int64, 0 is padding. Returns the bytes' vectors e (B, S, D)."""
        e_BSD: Tensor = self.byte(text_BS)
        for bucket_BS in gram_buckets(text_BS):
            e_BSD = e_BSD + self.gram(bucket_BS)
        return e_BSD

    def tokens(self, e_BSD: Tensor) -> Tensor:
        """e_BSD: what `embed` returns. Returns (B, S / patch, D)."""
        token_BSD: Tensor = e_BSD.unflatten(1, (-1, self.patch)).sum(2) / math.sqrt(self.patch)
        return token_BSD


class Text(ByteEmbedding):
    """Turns a caption's bytes into tokens, and into one vector that takes part in the condition of
    every token.

    summary = W_2 silu(W_1 sum_s e[s] / sqrt(S)), e being the bytes' vectors. Source: a pooled
    caption in the modulation as in SD3, arXiv 2403.03206.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, patch)
        self.w_in = nn.Linear(width, width)
        self.w_out = nn.Linear(width, width)

    def forward(self, text_BS: Tensor) -> tuple[Tensor, Tensor]:
        """text_BS: int64, 0 is padding. Returns the tokens (B, S / patch, D) and the summary (B,
        D).
        """
        e_BSD = self.embed(text_BS)
        pooled_BD = e_BSD.sum(1) / math.sqrt(text_BS.shape[1])
        summary_BD: Tensor = self.w_out(nn.functional.silu(self.w_in(pooled_BD)))
        return self.tokens(e_BSD), summary_BD


class EncodedText(nn.Module):
    """Turns a text encoder's vectors into tokens, and into one vector that takes part in the
    condition of every token.

    token = W v; summary = W_2 silu(W_1 mean over the caption's tokens of W v). Source: as `Text`.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.token_in = nn.Linear(text_width, width)
        self.w_in = nn.Linear(width, width)
        self.w_out = nn.Linear(width, width)

    def forward(self, text_BST: Tensor) -> tuple[Tensor, Tensor]:
        """text_BST: fp32, zeros where there is no token. Returns the tokens (B, S, D) and the
        summary (B, D).
        """
        token_BSD: Tensor = self.token_in(text_BST)
        is_there_BS1 = text_BST.any(dim=-1, keepdim=True)
        num_B1 = is_there_BS1.sum(1).clamp_min(1)
        pooled_BD = (token_BSD * is_there_BS1).sum(1) / num_B1
        summary_BD: Tensor = self.w_out(nn.functional.silu(self.w_in(pooled_BD)))
        return token_BSD, summary_BD


def make_text(config: RunConfig) -> Text | EncodedText:
    """Makes what the stream reads captions with."""
    m = config.model
    if config.data.captions == "encoder":
        return EncodedText(m.text_width, m.width)
    return Text(m.width, m.patch_text_bytes)


def gram_buckets(text_BS: Tensor) -> list[Tensor]:
    """Returns for each n of GRAMS the row (B, S) of the n bytes that end at each place; before the
    text lies padding.

    hash = (sum_j (b_(s-j) + 1) * 1_000_003^j mod 2^31 - 1) mod GRAM_BUCKETS, and a range of rows of
    its own per n.
    """
    rows = []
    for index, n in enumerate(GRAMS):
        padded = nn.functional.pad(text_BS, (n - 1, 0))
        hashed = torch.zeros_like(text_BS)
        for j in range(n):
            # Horner's rule from the oldest byte to the newest; below 2^31 * 2^20 nothing overflows
            hashed = (hashed * 1_000_003 + padded[:, j : j + text_BS.shape[1]] + 1) % (2**31 - 1)
        rows.append(hashed % GRAM_BUCKETS + index * GRAM_BUCKETS)
    return rows
