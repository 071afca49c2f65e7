"""Reads one untrusted file, in a process of its own: `python -m chat.attachments.extract <kind> <folder> <limits>`.

It knows nothing of the site: no Django, no secrets in its environment. A file may be made to take all memory or all
time, or to exploit a bug in a decoder; the kernel ends this process at its limits, and whoever started it refuses the
file. It reads `source` in the folder and leaves `file`, `preview` or `text`; it prints what it found as JSON.
"""

import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.confinement import confine

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_BYTES = 1_200_000_000
WRITTEN_BYTES = 64_000_000

MAX_SIDE_PIXELS = 2_048
"""No provider looks closer: OpenAI scales to 2048, Anthropic to about 1570, Gemini cuts into tiles of 768."""
PREVIEW_SIDE_PIXELS = 320
"""The longer side of an image in the page."""
MAX_PNG_BYTES = 3_500_000
"""A larger one is a photograph, and a tenth of that as JPEG. Anthropic takes 5 MB in base64, which adds a third."""
FAR = 1e9
"""Beyond every page: what is written beside a page, unseen, is text to the providers too, and they charge for it."""


class Unreadable(Exception):
    """The file cannot be read; its argument is a key of FILE_SENTENCES (chat/errors.py)."""


def main(kind: str, folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Return what was found, or `{"error": code}`."""
    confine(limits["seconds"], memory_bytes=MEMORY_BYTES, written_bytes=WRITTEN_BYTES)
    try:
        return READERS[kind](folder, limits)
    except Unreadable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "file_slow"}
    except Exception:  # noqa: BLE001  a decoder may raise anything
        return {"error": "file_broken"}


def read_image(folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Write the image anew: upright, no larger than models look at, and without metadata."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # counted here, from the header, before anything is decoded
    with Image.open(folder / "source", formats=("PNG", "JPEG", "WEBP", "GIF")) as opened:
        if opened.width * opened.height > limits["pixels"]:
            raise Unreadable("file_pixels")
        is_photo = opened.format == "JPEG"
        if is_photo:
            opened.draft("RGB", (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))  # decodes no more than is needed
        opened.load()  # of an animation the first frame
        image = ImageOps.exif_transpose(opened)
    image = _to_rgb(image)
    image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.LANCZOS, reducing_gap=2)
    image.info.clear()  # comments, profiles and whatever else would be written again
    media_type = _save(image, folder / "file", is_photo=is_photo)
    size = image.size
    image.thumbnail((PREVIEW_SIDE_PIXELS, PREVIEW_SIDE_PIXELS), Image.Resampling.LANCZOS, reducing_gap=2)
    image.save(folder / "preview", "WEBP", quality=80)
    return {"media_type": media_type, "width": size[0], "height": size[1]}


def _to_rgb(image: "Image") -> "Image":
    """Return the image in RGB or RGBA, with the colours of screens (sRGB)."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits of grey, from scanners and science
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        from io import BytesIO

        from PIL import ImageCms

        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # a broken profile is ignored
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(profile)), screen, outputMode=mode
            )
            assert converted is not None
            return converted
    return image.convert(mode)


def _save(image: "Image", path: Path, *, is_photo: bool) -> str:
    """Write the image and return its media type: PNG keeps letters sharp, JPEG photographs small."""
    from PIL import Image

    if not is_photo:
        image.save(path, "PNG", compress_level=6)
        if path.stat().st_size <= MAX_PNG_BYTES:
            return "image/png"
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    image.save(path, "JPEG", quality=88, optimize=True)
    return "image/jpeg"


def read_pdf(folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Write the whole text layer of a PDF, up to the limit of characters; the PDF itself is kept as it is."""
    from pypdfium2 import PdfDocument, PdfiumError, raw

    try:
        document = PdfDocument(folder / "source")
        pages = len(document)
    except PdfiumError as error:
        is_locked = raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD or "password" in str(error).lower()
        raise Unreadable("file_encrypted" if is_locked else "file_broken") from error
    if pages == 0:
        raise Unreadable("file_broken")
    if pages > limits["pages"]:
        raise Unreadable("file_pages")
    texts: list[str] = []
    left = limits["characters"]
    for number in range(pages):
        page = document[number]
        text = _tidy(page.get_textpage().get_text_bounded(left=-FAR, bottom=-FAR, right=FAR, top=FAR))
        page.close()
        if text:
            texts.append(f"[{number + 1}]\n{text}"[:left])
            left -= len(text)
        if left <= 0:
            break
    return _write_text(folder, "\n\n".join(texts)) | {"pages": pages, "is_cut": left <= 0}


def read_text(folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Write a text as UTF-8; raises Unreadable if it is not text, empty or too long."""
    text = _tidy(_decode((folder / "source").read_bytes()))
    if len(text) > limits["characters"]:
        raise Unreadable("file_text_too_long")
    if not text:
        raise Unreadable("file_empty")
    found = _write_text(folder, text)
    (folder / "file").write_bytes((folder / "text").read_bytes())
    return found | {"media_type": "text/plain"}


def _decode(data: bytes) -> str:
    """Return the text: UTF-8, UTF-16 with a byte order mark, or Windows-1252."""
    encodings = ("utf-16",) if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if not any(ord(c) < 32 and c not in "\t\n\r\f\v\x1b" for c in set(text)):
                return text
    raise Unreadable("file_lies")


def _tidy(text: str) -> str:
    """Return the text with plain line ends, and without characters that no text has."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").replace("\ufffe", "")
    return plain.encode("utf-8", "ignore").decode().strip("\n ")


def _write_text(folder: Path, text: str) -> dict[str, Any]:
    """Write the text; return how long it is as a prompt quotes it, between fences longer than any in it."""
    data = text.encode()
    (folder / "text").write_bytes(data)
    longest_fence = max(map(len, re.findall("`+", text)), default=0)
    return {"text_bytes": len(data) + 2 * longest_fence}


READERS = {"image": read_image, "pdf": read_pdf, "text": read_text}


if __name__ == "__main__":
    json.dump(main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])), sys.stdout)
