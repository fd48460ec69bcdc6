"""Why an image cannot be read, from Pillow's many errors."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable

from PIL import Image

from higfa_cli.artifacts.rows import ImageFault
from higfa_cli.text import one_line

# Kinds that people have under the names of these.
_OTHERS = re.compile(
    rb"....ftyp(?P<HEIC>hei|hev|mif1)|(....JXL |\xff\x0a)(?P<JXL>)|....jP  (?P<JP2>)|8BPS(?P<PSD>)",
    re.DOTALL,
)
# Frames of a JPEG that libjpeg does not decode: lossless, hierarchical, JPEG-LS.
_FRAMES = re.compile(rb"\xff[\xc3\xc5-\xc7\xcb\xcd-\xcf\xf7]\0")


def unidentified(data: bytes, formats: Iterable[str]) -> tuple[ImageFault, str]:
    """Why a file is not opened: no image, or one whose header is wrong or of an unknown kind."""
    for kind in formats:
        factory, accept = Image.OPEN[kind]
        if accept is None or not accept(data[:16]):
            continue
        try:
            factory(io.BytesIO(data), "")
        except Exception as error:
            reason, text = fault(error)
            return reason, f"{kind}: {text}"
    if other := _OTHERS.match(data):
        return "unsupported-mode", f"{other.lastgroup}, which is not read"
    return "not-an-image", "no known image format"


def fault(error: Exception) -> tuple[ImageFault, str]:
    """The reason that Pillow's many words come down to, and what it says, in one line."""
    cause, text = error.__cause__ or error, one_line(error)
    text = text.replace("not identified by this driver", "the header is wrong")
    text = re.sub(r".*bad header checksum in b'(\w+)'.*", r"bad checksum in \1", text)
    # A table of what Pillow can read has no such entry.
    text = f"unsupported value {text}" if text.isdecimal() else text
    if "too large" in text:
        return "too-large", text
    if re.search("unsupported|not available|cannot handle|unknown", text, re.IGNORECASE):
        return "unsupported-mode", text
    ended = isinstance(cause, IndexError | EOFError | struct.error)
    ended = ended or re.search("truncated|create decoder", text, re.IGNORECASE) is not None
    return "truncated" if ended else "damaged", text


def load(image: Image.Image, data: bytes) -> None:
    """Decode an image of this content, with a reason of our own where the decoder has none."""
    try:
        image.load()
    except OSError as error:
        if image.format == "JPEG" and "broken" in str(error) and _FRAMES.search(data):
            raise OSError("unsupported kind of JPEG frame") from error
        if image.format != "TIFF" or "decoder error" not in str(error):
            raise
        # libtiff does not say whether it lacks the compression, or the data are bad.
        compression = image.info.get("compression")
        try:
            Image.new(image.mode, (1, 1)).save(io.BytesIO(), "TIFF", compression=compression)
        except Exception:
            raise OSError(f"unsupported TIFF compression {compression}") from error
        raise
