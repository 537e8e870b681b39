"""What a clip says of itself before it is read, and whether the file is whole."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

# libav would write its complaints about broken files to stderr; ours name the file
av.logging.set_level(None)

# only containers of media data: a playlist that is named .mp4 must not open other files or
# addresses
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts"
# a container's duration and its last packet may differ by a frame or by the priming of an audio
# codec
SLACK_S = 0.3


class UnreadableClip(Exception):
    """A clip that cannot be used; the text says why in a few words."""


@dataclass(frozen=True, slots=True)
class Header:
    duration_s: float
    """Of the video, from its first frame to the end of its last."""
    frames_per_s: float
    has_sound: bool


def open_clip(path: Path) -> InputContainer:
    """Opens a clip quietly. Raises UnreadableClip."""
    try:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        return av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableClip(explain(error)) from None


def video_of(container: InputContainer) -> VideoStream:
    """Returns the first moving picture (a cover picture is none). Raises UnreadableClip."""
    for stream in container.streams.video:
        # a stream in a codec that is unknown here has no context
        is_picture = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if not is_picture and stream.codec_context is not None:
            # one thread: many small clips are decoded side by side in processes
            stream.codec_context.thread_count = 1
            return stream
    raise UnreadableClip("no video in it that can be decoded here")


def sound_of(container: InputContainer) -> AudioStream | None:
    """Returns the first sound track that can be decoded here, or None."""
    tracks = (track for track in container.streams.audio if track.codec_context is not None)
    return next(tracks, None)


def read_header(path: Path) -> Header:
    """Opens the clip, decodes its first frame and looks whether the data reach as far as the header
    says.

    Raises UnreadableClip: empty, not a video, cut off, or in a codec that cannot be decoded here.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableClip(explain(error)) from None
    if not size:
        raise UnreadableClip("empty file")
    with open_clip(path) as container:
        stream = video_of(container)
        try:
            first = next(iter(container.decode(stream)), None)
            if first is None:
                raise UnreadableClip("no frame in it")
            duration_s = _whole_duration_s(container, stream, size)
        except (av.error.FFmpegError, OSError) as error:
            raise UnreadableClip(explain(error)) from None
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Header(
            max(duration_s, float(1 / rate)), float(rate), sound_of(container) is not None
        )


def explain(error: Exception) -> str:
    """Says in a few words what libav or the system found."""
    if isinstance(error, av.error.InvalidDataError):
        return "not a video file, or cut off"
    if isinstance(error, av.error.EOFError):
        return "cut off"
    return str(getattr(error, "strerror", "") or error or type(error).__name__)


def _whole_duration_s(container: InputContainer, stream: VideoStream, size: int) -> float:
    """Returns the video's duration. Raises UnreadableClip where the index or the clock point behind
    the file's end.
    """
    entries = stream.index_entries
    if stream.duration and stream.time_base and len(entries):
        last = entries[len(entries) - 1]
        if last.pos + last.size > size:
            raise UnreadableClip(
                f"cut off: {last.pos + last.size - size} bytes or more are missing"
            )
        if "mov" in container.format.name:
            return float(stream.duration * stream.time_base)
    promised_s = (container.duration or 0) / av.time_base
    if promised_s > 1:
        container.seek(int((promised_s - 1) * av.time_base) + (container.start_time or 0))
    else:
        container.seek(container.start_time or 0)
    ends_s = dict.fromkeys(range(len(container.streams)), 0.0)
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends_s[packet.stream_index] = max(ends_s[packet.stream_index], end_s)
    start_s = (container.start_time or 0) / av.time_base
    if max(ends_s.values()) - start_s < promised_s * 0.98 - SLACK_S:
        found_s = max(max(ends_s.values()) - start_s, 0.0)
        raise UnreadableClip(f"cut off: {found_s:.1f} of {promised_s:.1f} seconds are there")
    first_s = float((stream.start_time or 0) * cast(Fraction, stream.time_base))
    return ends_s[stream.index] - first_s
