"""Pictures as clips of one frame: jpg, png and webp files."""

from pathlib import Path
from typing import cast

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from .headers import UnreadableClip, explain

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# a picture larger than that is a slip or an attack; the decoder refuses it before it takes memory
MOST_PIXELS = 2**27
MOST_BYTES = 2**28
# explode: a picture that is cut off or damaged is an error, not a picture that is grey below
OPTIONS = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}


def is_picture(path: Path) -> bool:
    """Whether the file's name is that of a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def read_picture(path: Path) -> VideoFrame:
    """Decodes a picture; how it was turned by the camera is in the frame's `rotation`.

    The decoder is chosen by the first bytes and gets the file's bytes and nothing else: no name in
    the file can make it open another one. Transparency is dropped. A picture that the camera
    mirrored stays mirrored. Raises UnreadableClip.
    """
    try:
        size = path.stat().st_size
        if not size:
            raise UnreadableClip("empty file")
        if size > MOST_BYTES:
            raise UnreadableClip(f"a picture of {size / 2**20:.0f} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableClip(explain(error)) from None
    decoder = cast(VideoCodecContext, VideoCodecContext.create(_codec(content), "r"))
    decoder.thread_count = 1
    decoder.options = OPTIONS
    try:
        frames = decoder.decode(av.Packet(content)) or decoder.decode(None)
    except av.error.ArgumentError:
        limit = f"{MOST_PIXELS / 1e6:.0f} million"
        raise UnreadableClip(f"a picture of more than {limit} pixels") from None
    except av.error.InvalidDataError:
        raise UnreadableClip("a picture cut off or damaged") from None
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableClip(explain(error)) from None
    if not frames:
        raise UnreadableClip("no picture in it")
    return frames[0]


def _codec(content: bytes) -> str:
    """Tells the codec by the file's first bytes, whatever its name says."""
    if content.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        # the flag of a moving picture, for which there is no decoder here
        if content[12:16] == b"VP8X" and len(content) > 20 and content[20] & 0x02:
            raise UnreadableClip("a moving webp picture")
        return "webp"
    raise UnreadableClip("not a jpg, png or webp picture")
