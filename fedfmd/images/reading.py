"""One image file, as people have them, to 8-bit RGB: what is done to it is stated, never silent.

- Turned as its EXIF orientation says.
- 16-bit grey is scaled to 8 bits (v / 257); floating-point grey of 0..1 by 255.
- Palettes, CMYK and grey become RGB; transparent pixels are composited on white.
- Of an animation or a stack of pages, the first.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedfmd.errors import UserError, unseen

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 3
"""Of these rules: prepared data of another version is read anew."""
BACKGROUND = (255, 255, 255)
DEEP = "16-bit or floating-point grey scaled to 8 bits"
TURNED = "turned as EXIF says"
TRANSPARENT = "transparent, composited on white"
ANIMATED = "the first of several frames"
WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def shorter_edge(path: Path) -> int | None:
    """Return the pixels of an image's shorter edge, from its header alone; null where there is none."""
    from PIL import Image

    with suppress(Exception), Image.open(path) as image:  # a damaged file is named when it is read
        return min(image.size)
    return None


def read_image(path: Path, side: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode to uint8 (side, side, 3): the largest square in the centre, resized; and what was done to it.

    Raises ``UserError`` that names a file which is no image, is damaged, or says nothing of its range.
    Warnings, as of large images and of odd metadata, are the caller's to silence.
    """
    from PIL import Image

    remarks: list[str] = []
    try:
        with Image.open(path) as image:
            # JPEG decodes straight to a half, quarter or eighth, never below twice what is needed.
            image.draft("RGB", (2 * side, 2 * side))
            if getattr(image, "n_frames", 1) > 1:
                remarks.append(ANIMATED)
            picture = _rgb(_upright(image, remarks), remarks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever a decoder raises on bytes that are no image
        if isinstance(error, OSError) and unseen(error):
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged image: {reason}; replace it, or move it elsewhere") from None
    edge = min(picture.size)
    left, top = ((length - edge) / 2 for length in picture.size)
    box = (left, top, left + edge, top + edge)
    square = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square), remarks


def eight_bits(image: "Image") -> tuple["Image", list[str]]:
    """Return an opened image upright in 8-bit RGB, or grey where it is grey; and what was done to it.

    Raises ``UserError`` for one that says nothing of its range, and whatever its decoder raises.
    """
    remarks: list[str] = []
    upright = _upright(image, remarks)
    if upright.mode == "L" and not upright.has_transparency_data:
        return upright, remarks
    deep = upright.mode in WIDE_GREY
    colours = _rgb(upright, remarks)
    return (colours.convert("L") if deep else colours), remarks


def _upright(image: "Image", remarks: list[str]) -> "Image":
    from PIL import ExifTags, ImageOps

    orientation = 1
    with suppress(Exception):  # damaged metadata: the pixels are as they are
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    image.load()  # Pillow turns a TIFF itself while it does
    if orientation not in range(2, 9):
        return image
    remarks.append(TURNED)
    return ImageOps.exif_transpose(image)


def _rgb(image: "Image", remarks: list[str]) -> "Image":
    from PIL import Image

    if image.mode in WIDE_GREY:
        remarks.append(DEEP)
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    remarks.append(TRANSPARENT)
    page = Image.new("RGBA", image.size, BACKGROUND)
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (low >= 0 and high <= top):
        allowed = f"allowed are 0 to {top:g}; save it with 8 or 16 bits"
        raise UserError(f"grey values from {low:g} to {high:g}: {allowed}")
    scaled: NDArray[np.uint8] = np.rint(values * (255 / top)).astype(np.uint8)
    return scaled
