"""Writes an mp4 of pictures and sound: H.264 and AAC, so that every player shows it; or one picture
as png.
"""

# F frames  H height  W width  A audio samples
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ...platform.errors import MoescopeError

# x264's macroblock tree depends on where its buffers happen to lie
SAME_EVERY_TIME = "mbtree=0:cpu-independent=1"
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# AAC takes samples in packets of this size
PACKET = 1024


def write_clip(
    path: Path,
    video_FHWC: NDArray[np.uint8],
    audio_A: NDArray[np.float32] | None,
    sample_rate: int,
    frames_per_s: float,
    *,
    quality: int = 18,
    frames_per_key: int = 12,
) -> None:
    """Writes the clip under its final name only when it is complete.

    video_FHWC: uint8 RGB; odd sizes grow by a repeated row or column, since 4:2:0 colour needs even
    ones. audio_A: mono in [-1, 1], or None. sample_rate: 8000 to 48000 Hz as AAC has them. quality:
    x264's crf, less is better. Raises MoescopeError where the codecs are missing or the folder
    cannot be written.
    """
    if video_FHWC.ndim != 4 or video_FHWC.shape[-1] != 3 or not len(video_FHWC):
        raise ValueError(
            f"video_FHWC has shape {video_FHWC.shape}, but (frames, height, width, 3) is needed"
        )
    height, width = video_FHWC.shape[1:3]
    even_FHWC = np.pad(video_FHWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        _encode(unfinished, even_FHWC, audio_A, sample_rate, frames_per_s, quality, frames_per_key)
        unfinished.replace(path)
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError, OSError) as error:
        raise MoescopeError(f"cannot write the clip {path}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_picture(path: Path, picture_HWC: NDArray[np.uint8]) -> None:
    """Writes a png under its final name only when it is complete.

    picture_HWC: uint8 RGB. Raises MoescopeError where the folder cannot be written.
    """
    if picture_HWC.ndim != 3 or picture_HWC.shape[-1] != 3:
        raise ValueError(
            f"picture_HWC has shape {picture_HWC.shape}, but (height, width, 3) is needed"
        )
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        encoder = VideoCodecContext.create("png", "w")
        encoder.height, encoder.width = picture_HWC.shape[:2]
        encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        unfinished.write_bytes(b"".join(bytes(packet) for packet in packets))
        unfinished.replace(path)
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError, OSError) as error:
        raise MoescopeError(f"cannot write the picture {path}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(
    path: Path,
    video_FHWC: NDArray[np.uint8],
    audio_A: NDArray[np.float32] | None,
    sample_rate: int,
    frames_per_s: float,
    quality: int,
    frames_per_key: int,
) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream(
            "libx264", rate=Fraction(frames_per_s).limit_denominator(1001)
        )
        picture.height, picture.width = video_FHWC.shape[1:3]
        picture.pix_fmt = "yuv420p"
        picture.gop_size = frames_per_key
        picture.codec_context.thread_count = 1
        picture.options = {
            "preset": "veryfast",
            "crf": str(quality),
            "x264-params": SAME_EVERY_TIME,
        }
        sound = (
            container.add_stream("aac", rate=sample_rate, layout="mono")
            if audio_A is not None
            else None
        )
        if sound is not None:
            # the default coder takes ten times as long for a difference that nobody hears here
            sound.options = {"aac_coder": "fast"}
        scaler = VideoReformatter()
        for image_HWC in video_FHWC:
            frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            container.mux(
                picture.encode(
                    scaler.reformat(frame, format="yuv420p", interpolation=EXACT, threads=1)
                )
            )
        container.mux(picture.encode(None))
        if sound is None or audio_A is None:
            return
        for first in range(0, len(audio_A), PACKET):
            packet_A = np.clip(audio_A[first : first + PACKET], -1, 1).astype(np.float32)
            piece = av.AudioFrame.from_ndarray(packet_A[None], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = sample_rate, first
            piece.time_base = Fraction(1, sample_rate)
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
