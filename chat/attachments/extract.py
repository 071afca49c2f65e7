"""Reads one file that nobody trusts, in a process of its own: `python -m chat.attachments.extract <kind> <folder> <limits>`.

It knows nothing of the site: no Django, no secrets in its environment. What it reads may want all memory, all time or a
bug in a decoder; the kernel ends it at its limits, and whoever started it says that the file cannot be read. In the
folder it finds `source` and leaves `file`, `preview` or `text`; on stdout it prints what it found, as JSON.
"""

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_BYTES = 1_200_000_000
WRITTEN_BYTES = 64_000_000

MAX_SIDE_PIXELS = 2_048
"""Pixels. No provider looks closer: OpenAI scales to 2048, Anthropic to about 1570, Gemini cuts into tiles of 768."""
PREVIEW_SIDE = 320
MAX_PNG_BYTES = 3_500_000
"""Bytes. What is larger is a photograph, and as JPEG a tenth; Anthropic takes 5 MB, a third of it lost to base64."""


class Unreadable(Exception):
    """Carries the code a person's sentence is found by."""


def main(kind: str, folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Return what was found, or `{"error": code}`."""
    confine(limits["seconds"])
    try:
        return READERS[kind](folder, limits)
    except Unreadable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "file_slow"}
    except Exception:  # noqa: BLE001  a decoder may raise anything
        return {"error": "file_broken"}


def confine(seconds: int) -> None:
    """From here on the kernel ends this process where it wants too much."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_image(folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Make the image anew: upright, no larger than a model looks at, and with nothing in it but pixels."""
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
    image = _plain(image)
    image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.LANCZOS, reducing_gap=2)
    image.info.clear()  # comments, profiles and what else would be written back
    media_type = _save(image, folder / "file", is_photo=is_photo)
    size = image.size
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    image.save(folder / "preview", "WEBP", quality=80)
    return {"media_type": media_type, "width": size[0], "height": size[1]}


def _plain(image: "Image") -> "Image":
    """Return the image in RGB or RGBA, its colours those of screens."""
    if image.mode.startswith(("I", "F")):  # 16 bits a pixel: scientists' and scanners' grey
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        from io import BytesIO

        from PIL import ImageCms

        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # a broken profile is none
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
    """Write the text of a PDF, which is kept as it is, up to the limit of characters."""
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
        text = _tidy(page.get_textpage().get_text_bounded())
        page.close()
        if text:
            texts.append(f"[{number + 1}]\n{text}"[:left])
            left -= len(text)
        if left <= 0:
            break
    return _write_text(folder, "\n\n".join(texts)) | {"pages": pages, "is_cut": left <= 0}


def read_text(folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Write a text as UTF-8; raises Unreadable for what is none, or too long."""
    text = _tidy(_decode((folder / "source").read_bytes()))
    if len(text) > limits["characters"]:
        raise Unreadable("file_text_too_long")
    if not text:
        raise Unreadable("file_empty")
    found = _write_text(folder, text)
    (folder / "file").write_bytes((folder / "text").read_bytes())
    return found | {"media_type": "text/plain"}


def _decode(data: bytes) -> str:
    """Return the text: UTF-8, UTF-16 with its mark, or what Windows wrote in the west before."""
    encodings = ("utf-16",) if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if not any(ord(c) < 32 and c not in "\t\n\r\f\v\x1b" for c in set(text)):
                return text
    raise Unreadable("file_lies")


def _tidy(text: str) -> str:
    """Return the text with plain line ends, and without what no text holds."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").replace("\ufffe", "")
    return plain.encode("utf-8", "ignore").decode().strip("\n ")


def _write_text(folder: Path, text: str) -> dict[str, Any]:
    data = text.encode()
    (folder / "text").write_bytes(data)
    return {"text_bytes": len(data)}


READERS = {"image": read_image, "pdf": read_pdf, "text": read_text}


if __name__ == "__main__":
    json.dump(main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])), sys.stdout)
