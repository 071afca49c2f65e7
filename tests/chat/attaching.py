"""Files to attach, honest and not, and what is done with them."""

import io
import struct
import zlib
from typing import Any
from uuid import UUID

from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from accounts.models import User
from chat.attachments import reading, storage
from chat.attachments.upload import store_upload
from chat.models import Attachment


def picture(size: tuple[int, int] = (60, 40), *, mode: str = "RGB", format: str = "PNG", **options: Any) -> bytes:
    """An image whose left half is red."""
    image = Image.new(mode, size, "blue" if mode not in ("I;16", "F") else 20_000)
    if mode in ("RGB", "RGBA"):
        image.paste("red", (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def pdf(*pages: str, stream: bytes | None = None, filters: str = "", extra: str = "") -> bytes:
    """A PDF of pages with a line of text each. `stream` is the content of all pages instead, as `filters` decode it."""
    objects: list[bytes] = []
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(b"<< /Type /Catalog /Pages 2 0 R >>")
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        box = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] {resources} /Contents {5 + 2 * number} 0 R >>"
        objects.append(box.encode())
        body = stream if stream is not None else f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
        objects.append(f"<< /Length {len(body)} {filters} >>\nstream\n".encode() + body + b"\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    return out + f"trailer << /Size {len(objects) + 1} /Root 1 0 R {extra} >>\nstartxref\n{start}\n%%EOF\n".encode()


def locked_pdf() -> bytes:
    """A PDF with a password."""
    secret = "61" * 32
    encrypt = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{secret}> /U <{secret}> /P -4 >> /ID [<61> <61>]"
    return pdf("secret", extra=encrypt)


def bomb_pdf(megabytes: int = 600) -> bytes:
    """A PDF of a few kilobytes whose page is so large."""
    packer = zlib.compressobj(9)
    spaces = b" " * 1_000_000
    once = b"".join(packer.compress(spaces) for _ in range(megabytes)) + packer.flush()
    return pdf("", stream=zlib.compress(once, 9), filters="/Filter [/FlateDecode /FlateDecode]")


def kept(user: User, data: bytes, name: str = "a.png") -> Attachment:
    """Upload a file, not read yet."""
    return store_upload(user.pk, SimpleUploadedFile(name, data))


def attached(user: User, data: bytes | None = None, name: str = "a.png") -> Attachment:
    """Upload a file and read it, as a worker does."""
    attachment = kept(user, picture() if data is None else data, name)
    reading.read_file(attachment.pk)
    attachment.refresh_from_db()
    return attachment


def stored_names() -> set[str]:
    """The names of everything in the storage."""
    stored = storage.storage()

    def walk(folder: str) -> set[str]:
        try:
            folders, files = stored.listdir(folder)
        except FileNotFoundError:
            return set()
        inner = {name for below in folders for name in walk(f"{folder}/{below}".lstrip("/"))}
        return inner | {f"{folder}/{name}".lstrip("/") for name in files}

    return walk("")


def data_of(attachment: Attachment, part: str = "") -> bytes:
    with storage.storage().open(attachment.part(part) if part else attachment.stored) as file:
        data: bytes = file.read()
        return data


def ids(*attachments: Attachment) -> tuple[UUID, ...]:
    return tuple(attachment.pk for attachment in attachments)
