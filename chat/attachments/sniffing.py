"""What a file is, by its first bytes. Its name and the media type that a browser gives it prove nothing."""

import re
import unicodedata

from chat.errors import BadFile
from chat.models import Attachment

HEAD_BYTES = 4_096
"""How much of a file is looked at."""
MAX_NAME_LENGTH = 100

_IMAGES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_PDF = re.compile(rb"(\xef\xbb\xbf)?\s{0,16}%PDF-\d")
_SVG = re.compile(rb"<svg[\s>]|<!DOCTYPE\s+svg", re.IGNORECASE)
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BINARY_NAMES = re.compile(
    r"\.(png|jpe?g|jfif|gif|webp|heic|heif|avif|bmp|tiff?|ico|pdf|docx?|xlsx?|pptx?|od[tsp]|zip|gz|rar|7z|exe|dmg|mp[34]|mov)$",
    re.IGNORECASE,
)

_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")


def detect_kind(head: bytes, name: str) -> tuple[Attachment.Kind, str]:
    """Return the kind and media type of a file that begins with `head`; raises BadFile for what cannot be read.

    Images and PDFs are recognised whatever they are called. Text that is called an image or a PDF is refused: whoever
    attached it expects something else to be read.
    """
    if not head:
        raise BadFile("file_empty")
    for signature, media_type in _IMAGES:
        if signature.match(head):
            return Attachment.Kind.IMAGE, media_type
    if _PDF.match(head):
        return Attachment.Kind.PDF, "application/pdf"
    if not head.startswith(_BOMS) and _NOT_TEXT.search(head):
        raise BadFile(
            "file_lies" if re.search(r"\.(txt|md|csv|png|jpe?g|gif|webp|pdf)$", name, re.IGNORECASE) else "file_type"
        )
    if name.lower().endswith(".svg") or _SVG.search(head):
        raise BadFile("file_svg")
    if _BINARY_NAMES.search(name):
        raise BadFile("file_lies")
    return Attachment.Kind.TEXT, "text/plain"


def clean_name(name: str) -> str:
    """Return a name to show: without folders, without invisible or reordering characters, and not too long."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name.encode("utf-8", "ignore").decode()))[-1]
    spaced = (" " if c.isspace() else c for c in last)
    visible = "".join(c for c in spaced if unicodedata.category(c) not in _INVISIBLE_CATEGORIES)
    cleaned = " ".join(visible.split()).lstrip(". ")
    if len(cleaned) > MAX_NAME_LENGTH:
        stem, dot, ending = cleaned.rpartition(".")
        ending = dot + ending if dot and len(ending) <= 10 else ""
        cleaned = (stem if ending else cleaned)[: MAX_NAME_LENGTH - len(ending) - 1] + "…" + ending
    return cleaned or "file"
