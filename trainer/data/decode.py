"""Reads one sample out of a clip: the frames of a random window, its sound as log-mel, its caption
as bytes. Of a clip in a shard: the latents and vectors that it was encoded to.
"""

# C colours, or latent channels  F frames  H height  W width  N mel bands  M mel steps
# S text bytes, or tokens  T width of their vectors  A audio samples
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ...platform.frozen import changed
from ..config import DataConfig
from .captions import encode_caption
from .chance import generator
from .clips import Clip
from .headers import UnreadableClip, explain, open_clip, sound_of, video_of
from .mel import log_mel, margin_s, silence
from .pictures import is_picture, read_picture
from .shards import Place, read_text, read_window

# audio decoders need some packets before they are exact (the overlap of AAC, the pre-roll of Opus
# is 80 ms)
PREROLL_S = 0.2
# the same pixels on every call and every processor
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True, slots=True)
class DecodedSample:
    video_CFHW: NDArray[np.uint8] | NDArray[np.float16]
    """uint8: pixels; fp16: latents."""
    mel_NM: NDArray[np.float32]
    """Zeros where the clip has no sound."""
    text_S: NDArray[np.int16] | NDArray[np.float16]
    """int16: bytes as of `encode_caption`; fp16: (S, T), vectors of a text encoder, zeros behind
    the caption's end."""
    has_sound: bool


def read_sample(clip: Clip, data: DataConfig, seed: int, position: int) -> DecodedSample:
    """Reads the window that (seed, clip, position) chooses; the same values on every call.

    The window starts anywhere in the clip where it fits and lasts num_frames / frames_per_s; of a
    shorter clip the last frame is held, and so is a picture. Frames are the nearest in time, scaled
    to cover height x width, cropped at a random place and, with a chance of flip_share, mirrored.
    Of an encoded clip (seed, clip, position) choose one of the windows that were encoded so. Raises
    UnreadableClip.
    """
    if clip.place is not None:
        return _read_encoded(clip, clip.place, data, seed, position)
    chance = generator(seed, clip.name, position, "crop")
    start_share, across, down = (float(share) for share in chance.random(3))
    span_s = data.num_frames / data.frames_per_s
    start_s = start_share * max(0.0, clip.duration_s - span_s)
    video_FHWC, mel_NM = _read(clip.path, data, start_s, (across, down))
    if data.flip_share and generator(seed, clip.name, position, "flip").random() < data.flip_share:
        video_FHWC = video_FHWC[:, :, ::-1]
    text_S = encode_caption(clip.caption, data.num_text_bytes)
    return _sample(np.ascontiguousarray(video_FHWC.transpose(3, 0, 1, 2)), mel_NM, text_S, data)


def _read_encoded(
    clip: Clip, place: Place, data: DataConfig, seed: int, position: int
) -> DecodedSample:
    chance = generator(seed, clip.name, position, "window")
    window = read_window(clip.path, place, int(chance.integers(len(place.checksums))))
    if data.captions == "bytes":
        text_S = encode_caption(clip.caption, data.num_text_bytes)
        return _sample(window.video_LFHW, window.mel_NM, text_S, data)
    text_ST = read_text(clip.path, place, data.num_text_tokens)
    return _sample(window.video_LFHW, window.mel_NM, text_ST, data)


def _sample(
    video_CFHW: NDArray[Any],
    mel_NM: NDArray[np.float32] | None,
    text_S: NDArray[Any],
    data: DataConfig,
) -> DecodedSample:
    silent_NM = np.zeros((data.num_mels, data.num_mel_steps), dtype=np.float32)
    return DecodedSample(
        video_CFHW, silent_NM if mel_NM is None else mel_NM, text_S, mel_NM is not None
    )


def read_start(path: Path, data: DataConfig, num_frames: int) -> NDArray[np.uint8]:
    """Reads the first num_frames of a clip or picture, cropped in the middle; video_CFHW.

    Raises UnreadableClip.
    """
    asked = changed(data, {"num_frames": num_frames, "num_mel_steps": 0})
    video_FHWC, _ = _read(path, asked, 0.0, (0.5, 0.5))
    return np.ascontiguousarray(video_FHWC.transpose(3, 0, 1, 2))


def _read(
    path: Path, data: DataConfig, start_s: float, crop: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Returns (video_FHWC, mel_NM or None) of the window from start_s on. crop: (across, down)."""
    try:
        if is_picture(path):
            frames = [read_picture(path)] * data.num_frames
            return _covered(frames, 1.0, data, *crop), None
        with open_clip(path) as container:
            stream = video_of(container)
            origin_s = float((stream.start_time or 0) * cast(Fraction, stream.time_base))
            wanted_s = origin_s + start_s + np.arange(data.num_frames) / data.frames_per_s
            frames = nearest_frames(container, stream, wanted_s)
            pixel_shape = float(stream.sample_aspect_ratio or 1)
            video_FHWC = _covered(frames, pixel_shape, data, *crop)
            span_s = data.num_frames / data.frames_per_s
            if not data.num_mel_steps:
                return video_FHWC, None
            return video_FHWC, _mel_of(container, origin_s + start_s, span_s, data)
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableClip(explain(error)) from None


def nearest_frames(
    container: InputContainer, stream: VideoStream, wanted_s: NDArray[np.float64]
) -> list[VideoFrame]:
    """Returns for each time the frame nearest to it; times ascend. Only what lies between is
    decoded.

    Past the end the last frame is held. Raises UnreadableClip where no frame can be had.
    """
    chosen = _scan(_frames_from(container, stream, float(wanted_s[0])), wanted_s)
    if not chosen:
        # some indices lead a seek past the end: then from the start, which always works
        chosen = _scan(_frames_from(container, stream, None), wanted_s)
    if not chosen:
        raise UnreadableClip(f"no frame at {wanted_s[0]:.1f} s")
    return chosen + [chosen[-1]] * (len(wanted_s) - len(chosen))


def _scan(
    frames: Iterator[tuple[float, VideoFrame]], wanted_s: NDArray[np.float64]
) -> list[VideoFrame]:
    chosen: list[VideoFrame] = []
    before: tuple[float, VideoFrame] | None = None
    for time_s, frame in frames:
        while len(chosen) < len(wanted_s) and time_s >= wanted_s[len(chosen)]:
            want_s = wanted_s[len(chosen)]
            is_earlier_nearer = before is not None and want_s - before[0] <= time_s - want_s
            chosen.append(before[1] if before is not None and is_earlier_nearer else frame)
        before = (time_s, frame)
        if len(chosen) == len(wanted_s):
            return chosen
    if before is not None and len(chosen) < len(wanted_s):
        chosen.append(before[1])
    return chosen


def _frames_from(
    container: InputContainer, stream: VideoStream, start_s: float | None
) -> Iterator[tuple[float, VideoFrame]]:
    """Yields (seconds, frame) from the key frame before start_s on, or from the beginning."""
    time_base = cast(Fraction, stream.time_base)
    target = stream.start_time or 0 if start_s is None else int(start_s / time_base)
    container.seek(target, stream=stream)
    for frame in container.decode(stream):
        if frame.time is not None:
            yield frame.time, frame


def _covered(
    frames: list[VideoFrame], pixel_shape: float, data: DataConfig, across: float, down: float
) -> NDArray[np.uint8]:
    """Scales frames until they cover height x width and cuts the same place out of each;
    video_FHWC. pixel_shape: a pixel's width over its height.
    """
    video_FHWC = np.empty((len(frames), data.height, data.width, 3), dtype=np.uint8)
    scaler = VideoReformatter()
    for index, frame in enumerate(frames):
        if index and frame is frames[index - 1]:
            video_FHWC[index] = video_FHWC[index - 1]
            continue
        is_lying = frame.rotation % 180 != 0
        want_height, want_width = (
            (data.width, data.height) if is_lying else (data.height, data.width)
        )
        scale = max(want_height / frame.height, want_width / (frame.width * pixel_shape))
        height = max(want_height, round(frame.height * scale))
        width = max(want_width, round(frame.width * pixel_shape * scale))
        smoothing = (Interpolation.AREA if scale < 1 else Interpolation.BICUBIC) | EXACT
        picture_HWC = scaler.reformat(
            frame, width, height, "rgb24", interpolation=smoothing, threads=1
        ).to_ndarray()
        upright_HWC = np.rot90(picture_HWC, round(frame.rotation / 90))
        top = int(down * (upright_HWC.shape[0] - data.height + 1))
        left = int(across * (upright_HWC.shape[1] - data.width + 1))
        video_FHWC[index] = upright_HWC[top : top + data.height, left : left + data.width]
    return video_FHWC


def _mel_of(
    container: InputContainer, start_s: float, span_s: float, data: DataConfig
) -> NDArray[np.float32] | None:
    """Returns mel_NM of the window, or None for a clip without a sound track. Past the track's end
    it is silent.
    """
    if (track := sound_of(container)) is None:
        return None
    margin = margin_s(span_s, data.num_mel_steps)
    rate_hz, audio_A = read_audio(container, track, start_s - margin, span_s + 2 * margin)
    if not rate_hz:
        return silence(data.num_mels, data.num_mel_steps)
    return log_mel(audio_A, rate_hz, span_s, data.num_mels, data.num_mel_steps)


def read_audio(
    container: InputContainer, stream: AudioStream, start_s: float, span_s: float
) -> tuple[int, NDArray[np.float32]]:
    """Returns (rate in hertz, mono audio_A in [-1, 1]) of a sound track.

    Channels are averaged; where there is no sound (before, after, gaps) there are zeros. Rate 0:
    nothing decodes.
    """
    time_base = cast(Fraction, stream.time_base)
    container.seek(max(int((start_s - PREROLL_S) / time_base), 0), stream=stream)
    rate_hz, audio_A = 0, np.zeros(0, dtype=np.float32)
    for frame in container.decode(stream):
        if frame.time is None:
            continue
        if not rate_hz:
            rate_hz = frame.sample_rate
            audio_A = np.zeros(round(span_s * rate_hz), dtype=np.float32)
        first = round((frame.time - start_s) * rate_hz)
        if first >= len(audio_A):
            break
        skipped = max(0, -first)
        mono_A = _mono(frame)[skipped : skipped + len(audio_A) - max(first, 0)]
        audio_A[first + skipped : first + skipped + len(mono_A)] = mono_A
    return rate_hz, audio_A


def _mono(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Returns the average of the channels as floats in [-1, 1], whatever the sample format."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        return np.asarray(values.mean(axis=0), dtype=np.float32)
    unsigned_middle = 128.0 if values.dtype.kind == "u" else 0.0
    full_scale = 2.0 ** (8 * values.dtype.itemsize - 1)
    return np.asarray((values.mean(axis=0) - unsigned_middle) / full_scale, dtype=np.float32)
