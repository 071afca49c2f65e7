"""Attachments: uploaded, read with suspicion, shown to their owner, used once, and gone with what they belong to."""

import datetime as dt
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from celery.exceptions import Retry
from django.conf import settings as site
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connections
from django.test import AsyncClient, Client
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.api.views import tokens_for
from accounts.models import User
from billing import metering
from billing.models import Plan
from chat.attachments import erasing, reading, serving, storage, sweeping
from chat.attachments.binding import bind_files, decode_attached, get_usable_files
from chat.attachments.sniffing import clean_name
from chat.attachments.upload import store_upload
from chat.errors import BadFile, FileNotReady, FileNotUsable, NoPdfText, NoVision, TooManyFiles
from chat.models import Attachment, LanguageModel
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from core import sweeps
from core.errors import Conflict, DomainError, NotFound, RateLimited
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, deletion
from history.models import Conversation, Turn, new_id
from tests.chat.asking import ask, period_of, question, saved
from tests.chat.attaching import (
    attached,
    bomb_pdf,
    data_of,
    ids,
    kept,
    locked_pdf,
    pdf,
    picture,
    png_header,
    stored_names,
)
from tests.chat.live import page_of

pytestmark = pytest.mark.usefixtures("catalog")

API = "/api/v1/attachments"
DAY = dt.timedelta(days=1, minutes=1)
Api = Callable[[User | None], APIClient]


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, catalog: None) -> Iterator[Path]:
    """A storage of this test's own."""
    options = {**site.STORAGES["attachments"]["OPTIONS"], "location": tmp_path / "attachments"}
    settings.STORAGES = {**site.STORAGES, "attachments": {**site.STORAGES["attachments"], "OPTIONS": options}}
    yield tmp_path / "attachments"
    assert storages["attachments"].location == str(tmp_path / "attachments")


@pytest.fixture
def seeing(catalog: None) -> LanguageModel:
    """The scripted model, able to see and to read PDFs."""
    model = LanguageModel.objects.get(key="scripted")
    model.sees_images = model.reads_pdfs = True
    model.save()
    return model


def age(attachment: Attachment, by: dt.timedelta) -> None:
    row = Attachment.objects.get(pk=attachment.pk)
    earlier = {name: getattr(row, name) - by for name in ("created_at", "claimed_at", "bound_at") if getattr(row, name)}
    Attachment.objects.filter(pk=attachment.pk).update(**earlier)


def finish(turn: Turn) -> Turn:
    Turn.objects.filter(pk=turn.pk).update(status="completed", answer="Vale.")
    metering.release(turn.pk)
    return turn


# --- What is taken, and what it becomes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (picture(format="PNG"), "image/png"),
        (picture(format="JPEG"), "image/jpeg"),
        (picture(format="WEBP"), "image/png"),
        (picture(format="GIF", save_all=True, append_images=[Image.new("RGB", (60, 40), "green")]), "image/png"),
        (picture(mode="RGBA"), "image/png"),
        (picture(mode="I;16"), "image/png"),
        (picture(mode="CMYK", format="JPEG"), "image/jpeg"),
        (picture(mode="1"), "image/png"),
    ],
)
def test_an_image_is_made_anew(ana: User, data: bytes, media_type: str):
    found = attached(ana, data)
    assert (found.status, found.error, found.kind, found.media_type) == ("ready", "", "image", media_type)
    assert (found.width, found.height) == (60, 40)
    made = Image.open(io.BytesIO(data_of(found)))
    made.load()
    assert (made.size, Image.MIME[made.format or ""]) == ((60, 40), media_type)
    assert getattr(made, "n_frames", 1) == 1
    assert found.size == len(data_of(found))
    assert Image.open(io.BytesIO(data_of(found, "preview"))).format == "WEBP"


def test_nothing_an_image_says_of_its_maker_is_kept(ana: User):
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Artist] = "SecretCam", "Ana Secreta"
    exif[Base.ImageDescription] = "SECRET description"
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (4.0, 35.0, 1.0)
    data = picture(format="JPEG", exif=exif, comment=b"SECRET comment", xmp=b"<x:xmpmeta>SECRET</x:xmpmeta>")
    assert b"SECRET" in data
    assert b"SecretCam" in data
    found = attached(ana, data, "a.jpg")
    assert found.status == "ready"
    for name in stored_names():
        with storage.storage().open(name) as file:
            assert b"secret" not in file.read().lower()
    made = Image.open(io.BytesIO(data_of(found)))
    assert not made.getexif()
    assert set(made.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_text_and_profiles_in_a_png_are_not_kept(ana: User):
    from PIL import ImageCms, PngImagePlugin

    words = PngImagePlugin.PngInfo()
    words.add_text("Author", "SECRET")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = attached(ana, picture(pnginfo=words, icc_profile=profile))
    made = Image.open(io.BytesIO(data_of(found)))
    assert (found.status, made.info) == ("ready", {})
    assert made.getpixel((10, 20)) == (255, 0, 0)


def test_an_image_is_turned_upright(ana: User):
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # to be turned right by a quarter: the red left half comes to the top
    found = attached(ana, picture(format="JPEG", exif=exif))
    made = Image.open(io.BytesIO(data_of(found))).convert("RGB")
    assert made.size == (found.width, found.height) == (40, 60)
    red, _, blue = made.getpixel((20, 10))
    assert red > blue


def test_a_large_image_is_made_smaller(ana: User):
    found = attached(ana, picture((5_000, 1_000), format="JPEG"))
    assert (found.width, found.height) == (2_048, 410)


def test_a_noisy_png_becomes_a_jpeg(ana: User):
    noise = Image.effect_noise((1_800, 1_800), 200)
    out = io.BytesIO()
    Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).save(out, "PNG", compress_level=1)
    found = attached(ana, out.getvalue())
    assert (found.status, found.media_type) == ("ready", "image/jpeg")


def test_a_pdf_is_kept_and_its_text_read(ana: User):
    data = pdf("Uno dos", "Tres")
    found = attached(ana, data, "informe.pdf")
    assert (found.status, found.kind, found.pages, found.media_type) == ("ready", "pdf", 2, "application/pdf")
    assert data_of(found) == data
    assert data_of(found, "text").decode() == "[1]\nUno dos\n\n[2]\nTres"
    assert found.tokens > 0


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("# Título\nñandú".encode(), "# Título\nñandú"),
        ("\ufeffa;b\r\n1;2\r\n".encode(), "a;b\n1;2"),
        ("ñandú".encode("utf-16"), "ñandú"),
        ("ñandú “sí”".encode("cp1252"), "ñandú “sí”"),
        (b"<!doctype html><p>x</p><script>alert(1)</script>", "<!doctype html><p>x</p><script>alert(1)</script>"),
    ],
)
def test_a_text_is_kept_as_utf_8(ana: User, data: bytes, text: str):
    found = attached(ana, data, "notas.md")
    assert (found.status, found.kind, found.media_type) == ("ready", "text", "text/plain")
    assert data_of(found).decode() == data_of(found, "text").decode() == text


def test_nothing_else_stays_in_the_storage(ana: User):
    image, document = attached(ana), attached(ana, pdf("a"), "a.pdf")
    assert stored_names() == {
        image.stored,
        image.part("preview"),
        document.stored,
        document.part("text"),
    }


# --- Bombs, lies and damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name", "error"),
    [
        (png_header(50_000, 50_000), "a.png", "file_pixels"),
        (png_header(100, 100), "a.png", "file_broken"),
        (picture(format="JPEG")[:200], "a.jpg", "file_broken"),
        (b"\xff\xd8\xff" + b"<html><script>alert(1)</script>" * 10, "a.jpg", "file_broken"),
        (b"GIF89a/*<svg onload=alert(1)>*/=1;", "a.gif", "file_broken"),
        (b"%PDF-1.4\nnothing of the kind", "a.pdf", "file_broken"),
        (b"%PDF-1.4\n" + b"[" * 1_000_000, "a.pdf", "file_broken"),
        (pdf(*["x"] * 201), "a.pdf", "file_pages"),
        (locked_pdf(), "a.pdf", "file_encrypted"),
        (b"a" * 400_001, "a.txt", "file_text_too_long"),
        (b"a" * 5_000 + b"\0\1\2", "a.txt", "file_lies"),
        (b" \n \n", "a.txt", "file_empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(ana: User, data: bytes, name: str, error: str):
    found = attached(ana, data, name)
    assert (found.status, found.error) == ("refused", error)
    assert stored_names() == set()


@pytest.mark.parametrize(
    ("data", "name", "error"),
    [
        (b"<!doctype html><script>alert(1)</script>", "photo.png", "file_lies"),
        (b"<!doctype html>", "report.pdf", "file_lies"),
        (b"PK\x03\x04\x14\0\0\0", "report.pdf", "file_lies"),
        (b"PK\x03\x04\x14\0\0\0", "report.docx", "file_type"),
        (b"MZ\x90\0\3\0", "setup.exe", "file_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", "file_svg"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<SVG onload='alert(1)'>", "a.txt", "file_svg"),
        (b"", "a.txt", "file_empty"),
    ],
)
def test_a_lie_is_refused_before_anything_is_kept(ana: User, data: bytes, name: str, error: str):
    with pytest.raises(BadFile) as refused:
        kept(ana, data, name)
    assert refused.value.code == error
    assert not Attachment.objects.exists()
    assert stored_names() == set()


def test_an_image_is_an_image_whatever_it_is_called(ana: User):
    found = attached(ana, picture(format="JPEG"), "page.html")
    assert (found.status, found.kind, found.media_type) == ("ready", "image", "image/jpeg")


def test_of_an_image_that_is_something_else_too_only_the_image_is_left(ana: User):
    found = attached(ana, picture(format="JPEG") + b"<script>alert(1)</script>PK\x03\x04" + pdf("hidden"))
    assert found.status == "ready"
    assert b"script" not in data_of(found)
    assert b"%PDF" not in data_of(found)


def test_a_pdf_that_unpacks_without_end_costs_little(ana: User):
    data = bomb_pdf()
    assert len(data) < 10_000
    before = peak_of_children()
    found = attached(ana, data, "a.pdf")
    assert found.status in ("refused", "ready")  # pdfium stops unpacking where it sees fit, or the kernel stops pdfium
    assert peak_of_children() - before < 1_300_000_000


def peak_of_children() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def test_a_reader_that_wants_everything_is_ended(tmp_path: Path):
    code = (
        "from chat.attachments import extract\n"
        "extract.READERS['image'] = lambda folder, limits: {what}\n"
        "import json; print(json.dumps(extract.main('image', None, {'seconds': 1})))"
    )

    def run(what: str) -> "subprocess.CompletedProcess[str]":
        script = code.replace("{what}", what)
        return subprocess.run([sys.executable, "-c", script], cwd=site.BASE_DIR, capture_output=True, text=True)

    assert '"file_slow"' in run("bytearray(2_000_000_000)").stdout
    assert run("sum(iter(int, 1))").returncode < 0


def test_a_file_that_takes_too_long_is_refused(ana: User, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    settings.ATTACHMENT_SECONDS = 0.001
    monkeypatch.setattr(reading, "_limits", lambda: {"pixels": 1, "pages": 1, "characters": 1, "seconds": 20})
    assert attached(ana).error == "file_slow"


def test_the_reader_learns_nothing_of_the_site(ana: User, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def run(*_arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return subprocess.CompletedProcess([], 0, b'{"error": "file_broken"}', b"")

    with monkeypatch.context() as patch:
        patch.setattr(reading.subprocess, "run", run)
        attached(ana)
    assert set(seen["env"]) == {"LANG", "TMPDIR", "OMP_NUM_THREADS"}
    listed = "import sys, chat.attachments.extract; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", listed], cwd=site.BASE_DIR, capture_output=True, text=True).stdout
    assert "chat.attachments.extract" in modules
    assert "django" not in modules


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ana\\foto.png", "foto.png"),
        ("..", "file"),
        (".htaccess", "htaccess"),
        ("a\0b\nc\u202egnp.exe", "ab cgnp.exe"),
        ("x" * 300 + ".png", "x" * 95 + "….png"),
        ("", "file"),
        ("  año nuevo.pdf ", "año nuevo.pdf"),
    ],
)
def test_a_name_is_only_shown(name: str, clean: str):
    assert clean_name(name) == clean


def test_a_name_of_the_person_is_never_one_of_the_storage(ana: User, folder: Path):
    attached(ana, picture(), "../../../evil.png")
    assert not any("evil" in name for name in stored_names())
    assert {path.name for path in folder.parent.iterdir()} == {"attachments"}


# --- Reading: twice, and with a death in the middle -------------------------------------------------------------------


def test_reading_twice_changes_nothing(ana: User):
    found = attached(ana)
    before = stored_names()
    reading.read_file(found.pk)
    assert stored_names() == before
    assert Attachment.objects.get(pk=found.pk).attempts == 1


def test_a_file_whose_reader_died_is_read_by_another(ana: User, monkeypatch: pytest.MonkeyPatch):
    waiting = kept(ana, picture())

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_finish", die)
        with pytest.raises(KeyboardInterrupt):
            reading.read_file(waiting.pk)
    reading.read_file(waiting.pk)  # too soon: it may still be at it
    assert Attachment.objects.get(pk=waiting.pk).status == "processing"
    age(waiting, reading.CLAIM_LASTS)
    later: list[Any] = []
    monkeypatch.setattr(sweeping, "read_later", later.append)
    sweeping.repair_attachments()
    assert later == [waiting.pk]
    reading.read_file(waiting.pk)
    found = Attachment.objects.get(pk=waiting.pk)
    assert (found.status, found.attempts) == ("ready", 2)
    assert stored_names() == {found.stored, found.part("preview")}


def test_a_file_that_kills_its_readers_is_refused(ana: User, monkeypatch: pytest.MonkeyPatch):
    waiting = kept(ana, picture())
    Attachment.objects.filter(pk=waiting.pk).update(attempts=reading.MAX_ATTEMPTS)
    reading.read_file(waiting.pk)
    found = Attachment.objects.get(pk=waiting.pk)
    assert (found.status, found.error) == ("refused", "file_broken")
    assert stored_names() == set()


def test_a_file_erased_while_it_is_read_leaves_nothing(ana: User, monkeypatch: pytest.MonkeyPatch):
    waiting = kept(ana, picture())
    extract = reading._extract

    def erased_meanwhile(kind: str, folder: Path) -> Any:
        found = extract(kind, folder)
        erasing.erase_unused(waiting)
        return found

    monkeypatch.setattr(reading, "_extract", erased_meanwhile)
    reading.read_file(waiting.pk)
    assert not Attachment.objects.exists()
    assert stored_names() == set()


def test_a_file_that_comes_while_its_account_is_closed_leaves_nothing(ana: User, monkeypatch: pytest.MonkeyPatch):
    def erased_meanwhile() -> Any:
        erasing.erase_of_owner(ana.pk)
        return storage.storage()

    monkeypatch.setattr("chat.attachments.upload.storage", erased_meanwhile)
    kept(ana, picture())
    assert not Attachment.objects.exists()
    assert stored_names() == set()


def test_nobody_waits_for_ever_for_a_worker(ana: User, api: Api):
    waiting = kept(ana, picture())
    assert api(ana).get(f"{API}/{waiting.pk}").json()["status"] == "uploaded"
    age(waiting, serving.MAX_WAIT)
    answer = api(ana).get(f"{API}/{waiting.pk}").json()
    assert (answer["status"], answer["error"]["code"]) == ("refused", "file_unprocessed")
    reading.read_file(waiting.pk)  # the worker is back
    assert Attachment.objects.get(pk=waiting.pk).status == "refused"
    assert stored_names() == set()


def test_a_file_that_waited_long_and_is_being_read_is_waited_for(ana: User, api: Api):
    waiting = kept(ana, picture())
    age(waiting, serving.MAX_WAIT)
    assert reading._claim(waiting.pk)
    assert api(ana).get(f"{API}/{waiting.pk}").json()["status"] == "processing"
    age(waiting, serving.MAX_WAIT)  # whoever claimed it died
    assert api(ana).get(f"{API}/{waiting.pk}").json()["error"]["code"] == "file_unprocessed"


def test_nobody_has_all_readers_while_others_wait(ana: User, bo: User):
    first, second = kept(ana, picture()), kept(ana, picture())
    assert not reading._must_let_others_go_first(ana.pk)
    reading._claim(first.pk)
    assert not reading._must_let_others_go_first(ana.pk)  # nobody else waits
    others = kept(bo, picture())
    with pytest.raises(Retry):
        reading.read_attachment(str(second.pk))
    reading.read_attachment(str(others.pk))
    assert Attachment.objects.get(pk=others.pk).status == "ready"
    reading.read_attachment(str(second.pk))
    assert Attachment.objects.get(pk=second.pk).status == "ready"


def test_a_task_of_a_file_that_does_not_wait_is_over(ana: User, monkeypatch: pytest.MonkeyPatch):
    done = attached(ana, picture())
    monkeypatch.setattr(reading, "_free_readers", None)
    reading.read_attachment(str(done.pk))
    reading.read_attachment(str(new_id()))


def test_uploads_of_an_hour_are_limited(ana: User, bo: User, api: Api, settings: Settings):
    """Whatever became of the files: reading them is what costs."""
    settings.ATTACHMENTS_PER_HOUR = 2

    def upload(user: User) -> Any:
        return api(user).post(API, {"file": SimpleUploadedFile("a.png", picture())}, format="multipart")

    assert [upload(ana).status_code for _ in range(2)] == [202, 202]
    refused = upload(ana)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["retry_after"] > 0
    assert upload(bo).status_code == 202


def test_a_file_whose_upload_died_is_refused(ana: User, monkeypatch: pytest.MonkeyPatch):
    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("django.core.files.storage.FileSystemStorage.save", die)
        with pytest.raises(KeyboardInterrupt):
            kept(ana, picture())
    [left] = Attachment.objects.all()
    reading.read_file(left.pk)
    assert Attachment.objects.get(pk=left.pk).error == "file_broken"


def test_any_thread_hands_files_to_our_broker(ana: User):
    """A web process answers each request in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(reading.read_later, kept(ana, picture()).pk).result()
    assert sync_redis().llen("celery") == 1


# --- The API ----------------------------------------------------------------------------------------------------------


def upload(client: Any, data: bytes, name: str = "a.png", **headers: str) -> Any:
    return client.post(API, {"file": SimpleUploadedFile(name, data)}, format="multipart", **headers)


def test_a_file_is_uploaded_read_and_removed(ana: User, api: Api):
    answer = upload(api(ana), picture(), "foto.png")
    assert answer.status_code == 202, answer.json()
    found = answer.json()
    assert (found["status"], found["name"], found["kind"], found["error"]) == ("uploaded", "foto.png", "image", None)
    reading.read_file(found["id"])
    found = api(ana).get(f"{API}/{found['id']}").json()
    assert (found["status"], found["width"]) == ("ready", 60)
    assert api(ana).get(f"{API}/{found['id']}/content").content == data_of(Attachment.objects.get())
    assert api(ana).delete(f"{API}/{found['id']}").status_code == 204
    assert api(ana).get(f"{API}/{found['id']}").status_code == 404
    assert stored_names() == set()


def test_a_file_for_which_there_is_no_room_leaves_nothing(ana: User, api: Api, monkeypatch: pytest.MonkeyPatch):
    save = storage.storage().save

    def save_half(name: str, content: Any) -> None:
        save(name, ContentFile(content.read()[:50]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(storage.storage(), "save", save_half)
        answer = upload(api(ana), picture())
    assert (answer.status_code, answer.json().get("code")) == (503, "unavailable"), answer.content
    assert (Attachment.objects.count(), stored_names()) == (0, set())
    assert upload(api(ana), picture()).status_code == 202


def test_a_token_may_upload(ana: User):
    client = Client(headers={"Authorization": f"Bearer {tokens_for(ana)['access']}"})
    assert client.post(API, {"file": SimpleUploadedFile("a.png", picture())}).status_code == 202


def test_a_session_may_upload_with_its_mark(ana: User):
    client = Client(enforce_csrf_checks=True)
    client.force_login(ana)
    refused = client.post(API, {"file": SimpleUploadedFile("a.png", picture())})
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    page = client.get("/").content.decode()
    token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
    taken = client.post(API, {"file": SimpleUploadedFile("a.png", picture())}, headers={"X-CSRFToken": token})
    assert taken.status_code == 202


def test_nobody_uploads_without_a_name(api: Api):
    assert upload(api(None), picture()).status_code == 401
    assert not Attachment.objects.exists()


def test_a_refusal_has_a_code_and_a_reason(ana: User, api: Api, settings: Settings):
    client = api(ana)
    client.credentials(HTTP_ACCEPT_LANGUAGE="en")
    answer = upload(client, b"<svg/>", "a.svg")
    assert (answer.status_code, answer.json()["code"]) == (415, "file_svg")
    assert "PNG" in answer.json()["detail"]
    settings.ATTACHMENT_BYTES = 50
    answer = upload(client, picture())
    assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")
    assert client.post(API, {"file": "text"}, format="multipart").json()["code"] == "file_missing"


@pytest.mark.stores
@pytest.mark.django_db(databases=["default", "history"])
def test_a_plan_s_largest_file_is_what_is_said_and_taken(ana: User, folder: Path):
    plan = Plan.objects.get(is_default=True)
    plan.upload_bytes = 1_000
    plan.save()
    with pytest.raises(BadFile) as refused:
        store_upload(ana.pk, SimpleUploadedFile("a.txt", b"a" * 1_001))
    assert (refused.value.code, refused.value.status) == ("file_too_large", 413)
    assert "1000" in refused.value.message
    assert store_upload(ana.pk, SimpleUploadedFile("a.txt", b"a" * 1_000)).size == 1_000


def test_what_waits_is_limited(ana: User, bo: User, settings: Settings):
    settings.ATTACHMENTS_PENDING = 2
    first = kept(ana, picture())
    kept(ana, picture())
    with pytest.raises(RateLimited):
        kept(ana, picture())
    assert Attachment.objects.count() == 2
    kept(bo, picture())
    erasing.erase_unused(first)
    kept(ana, picture())


# --- Whose it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{API}/%s", f"{API}/%s/content", "/attachments/%s/", "/attachments/%s/preview/"])
def test_what_is_foreign_looks_as_if_it_were_missing(ana: User, bo: User, path: str):
    found = attached(ana)
    owner, other = Client(), Client()
    owner.force_login(ana)
    other.force_login(bo)
    assert owner.get(path % found.pk).status_code == 200
    foreign, missing = other.get(path % found.pk), other.get(path % new_id())
    assert foreign.status_code == missing.status_code == 404
    if path.startswith("/api"):
        assert {**foreign.json(), "request_id": ""} == {**missing.json(), "request_id": ""}
        assert other.delete(f"{API}/{found.pk}").status_code == 404
        assert Attachment.objects.filter(pk=found.pk, status="ready").exists()


def test_a_visitor_sees_no_file(ana: User):
    assert Client().get(f"/attachments/{attached(ana).pk}/").status_code == 302


def test_a_file_is_served_as_nothing_a_browser_runs(ana: User):
    client = Client()
    client.force_login(ana)
    files = {
        "inline": (attached(ana, picture(), 'fo"to\r\n.png'), "image/png"),
        "attachment": (attached(ana, b"<script>alert(1)</script>", "a.html"), "text/plain; charset=utf-8"),
        "attachment; ": (attached(ana, pdf("a"), "ñ.pdf"), "application/pdf"),
    }
    for disposition, (found, media_type) in files.items():
        answer = client.get(f"/attachments/{found.pk}/")
        assert answer["Content-Type"] == media_type
        assert answer["Content-Disposition"].startswith(disposition)
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        assert answer["Cache-Control"] == "no-store"
    assert "script-src" in client.get("/")["Content-Security-Policy"]


def test_a_file_that_waits_is_not_served(ana: User):
    client = Client()
    client.force_login(ana)
    assert client.get(f"/attachments/{kept(ana, picture()).pk}/").status_code == 404


# --- Asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", ["[{", '[{"name": "a.png"}]', "7"])
def test_a_turn_whose_list_of_files_cannot_be_read_is_shown_without(ana: User, files: str):
    turn = ask(ana, "Legible")
    Turn.objects.filter(pk=turn.pk).update(attachments=files)
    client = Client()
    client.force_login(ana)
    assert "Legible" in client.get(f"/c/{turn.conversation_id}/").text


def test_a_question_takes_its_files(ana: User, seeing: LanguageModel):
    files = attached(ana), attached(ana, pdf("Uno"), "a.pdf")
    turn = ask(ana, attachments=ids(*files))
    listed = decode_attached(saved(turn).attachments)
    assert [(file.id, file.kind, file.name) for file in listed] == [
        (files[0].pk, "image", "a.png"),
        (files[1].pk, "pdf", "a.pdf"),
    ]
    for file in files:
        file.refresh_from_db()
        assert (file.turn_id, file.conversation_id) == (turn.pk, turn.conversation_id)


async def test_the_socket_takes_files_and_shows_them(ana: User, seeing: LanguageModel, runner: Runner):
    image, document = await in_thread(attached, ana), await in_thread(attached, ana, pdf("Uno"), "in<b>forme.pdf")
    async with page_of(ana) as page:
        await page.start("say:hola", attachments=[str(image.pk), str(document.pk)], model="scripted")
        for event in (await page.next("turn.started"), await page.next("turn.completed")):
            assert f'src="/attachments/{image.pk}/preview/"' in event["html"]
            assert f'href="/attachments/{document.pk}/" download' in " ".join(event["html"].split())
            assert "in&lt;b&gt;forme.pdf" in event["html"]
            assert event["html"].index(str(image.pk)) < event["html"].index("say:hola")


async def test_the_api_takes_files_and_lists_them(ana: User, seeing: LanguageModel, runner: Runner):
    document = await in_thread(attached, ana, pdf("Uno"), "informe.pdf")
    headers = {"Authorization": f"Bearer {(await in_thread(tokens_for, ana))['access']}"}
    body = {"text": "say:hola", "model": "scripted", "attachments": [str(document.pk)]}

    async def post() -> Any:
        path = f"/api/v1/conversations/{new_id()}/turns"
        return await AsyncClient().post(path, json.dumps(body), "application/json", headers=headers)

    answer = await post()
    turn = json.loads(b"".join([part async for part in answer.streaming_content]))
    assert turn["status"] == "completed"
    assert turn["attachments"] == [
        {
            "id": str(document.pk),
            "kind": "pdf",
            "name": "informe.pdf",
            "media_type": "application/pdf",
            "size": document.size,
            "pages": 1,
        }
    ]
    again = await post()
    assert (again.status_code, again.json()["code"]) == (400, "file_not_usable")


def test_files_are_reserved_for(ana: User, seeing: LanguageModel):
    LanguageModel.objects.filter(pk=seeing.pk).update(context_window=100_000)
    seeing.refresh_from_db()
    seeing.save()
    turn = ask(ana, "x")
    alone = period_of(ana).reserved_micros
    finish(turn)
    ask(ana, "x", attachments=ids(attached(ana), attached(ana, pdf("a", "b"), "a.pdf")))
    assert period_of(ana).reserved_micros - alone == 1_601 + 2 * 2_835 + 240 + 4  # at a dollar a million


def test_the_same_question_again_is_the_same_turn(ana: User, seeing: LanguageModel):
    asked = question(attachments=ids(attached(ana)))
    first, second = open_turn(ana.pk, asked), open_turn(ana.pk, asked)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.turn.pk == second.turn.pk


def test_a_file_is_used_by_one_conversation(ana: User, seeing: LanguageModel):
    file = attached(ana)
    turn = finish(ask(ana, attachments=ids(file)))
    with pytest.raises(FileNotUsable):
        ask(ana, attachments=ids(file))
    again = ask(ana, attachments=ids(file), conversation_id=turn.conversation_id, parent_id=None)
    assert saved(again).attachments == saved(turn).attachments


def test_of_two_uses_at_once_one_wins(carla: User, seeing: LanguageModel):
    file = attached(carla)
    barrier = Barrier(6)

    def use(_number: int) -> object:
        barrier.wait()
        try:
            return ask(carla, attachments=ids(file))
        except FileNotUsable as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(use, range(6)))
    turns = [turn for turn in found if isinstance(turn, Turn)]
    assert len(turns) == 1
    assert Turn.objects.count() == 1
    assert Attachment.objects.get(pk=file.pk).turn_id == turns[0].pk
    assert period_of(carla).account.holds == 1


def test_a_race_that_is_lost_gives_everything_back(ana: User, seeing: LanguageModel):
    mine, contested = attached(ana), attached(ana)
    turn_id, conversation_id = new_id(), new_id()
    found = get_usable_files(ana.pk, ids(mine, contested), turn_id=turn_id, conversation_id=conversation_id)
    ask(ana, attachments=ids(contested))
    with pytest.raises(FileNotUsable):
        bind_files(found, turn_id=turn_id, conversation_id=conversation_id)
    mine.refresh_from_db()
    assert (mine.turn_id, mine.conversation_id) == (None, None)


def test_a_store_that_breaks_while_files_are_bound_leaves_nothing_held(
    ana: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    def break_(*_: object, **__: object) -> None:
        raise OperationalError

    monkeypatch.setattr("chat.turns.opening.bind_files", break_)
    asked = question(attachments=ids(attached(ana)))
    with pytest.raises(OperationalError):
        open_turn(ana.pk, asked)
    monkeypatch.undo()
    assert (period_of(ana).reserved_micros, period_of(ana).account.holds) == (0, 0)
    assert open_turn(ana.pk, asked).is_new


def test_a_question_that_is_refused_while_it_is_written_leaves_its_files_free(
    ana: User, bo: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    """Somebody else has begun a conversation of the same id since it was looked for."""
    file = attached(ana)
    foreign = ask(bo)
    monkeypatch.setattr("chat.turns.opening.access.find_to_ask_in", lambda _owner, _id: None)
    with pytest.raises(Conflict):
        ask(ana, conversation_id=foreign.conversation_id, attachments=ids(file))
    file.refresh_from_db()
    assert (file.turn_id, file.conversation_id, file.bound_at) == (None, None, None)


@pytest.mark.parametrize("what", ["foreign", "missing", "refused", "waiting", "many", "large"])
def test_files_that_cannot_be_used_refuse_the_question(
    ana: User, bo: User, seeing: LanguageModel, settings: Settings, what: str
):
    expected: type[DomainError] = FileNotUsable
    match what:
        case "foreign":
            wanted = ids(attached(bo))
        case "missing":
            wanted = (new_id(),)
        case "refused":
            wanted = ids(attached(ana, png_header(50_000, 50_000)))
        case "waiting":
            wanted, expected = ids(kept(ana, picture())), FileNotReady
        case "many":
            settings.ATTACHMENTS_PER_QUESTION, expected = 1, TooManyFiles
            wanted = ids(attached(ana), attached(ana))
        case _:
            wanted, expected = ids(attached(ana)), TooManyFiles
            settings.ATTACHMENTS_BYTES = 10
    with pytest.raises(expected):
        ask(ana, attachments=wanted)
    assert not Turn.objects.exists()
    assert period_of(ana).account.holds == 0


def test_a_model_that_cannot_see_says_so(ana: User, catalog: None):
    file = attached(ana)
    with pytest.raises(NoVision):
        ask(ana, attachments=ids(file))
    assert not Turn.objects.exists()
    file.refresh_from_db()
    assert file.turn_id is None


def test_a_scan_needs_a_model_that_reads_pdfs(ana: User, seeing: LanguageModel):
    scan = attached(ana, pdf(""), "scan.pdf")
    assert (scan.status, scan.tokens) == ("ready", 0)
    seeing.reads_pdfs = False
    seeing.save()
    with pytest.raises(NoPdfText):
        ask(ana, attachments=ids(scan))


def test_a_question_without_files_costs_no_statement_more(
    ana: User, seeing: LanguageModel, django_assert_num_queries: Any
):
    with django_assert_num_queries(0, using="default"):
        get_usable_files(ana.pk, (), turn_id=new_id(), conversation_id=new_id())
        bind_files((), turn_id=new_id(), conversation_id=new_id())


# --- A crash between the files and their turn -------------------------------------------------------------------------


def test_files_of_a_turn_that_was_never_written_are_free_again(
    ana: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    file = attached(ana)
    asked = question(attachments=ids(file))

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("chat.turns.opening.tree.start_conversation", die)
        with pytest.raises(KeyboardInterrupt):
            open_turn(ana.pk, asked)
    assert Attachment.objects.get(pk=file.pk).turn_id == asked.turn_id
    sweeping.repair_attachments()  # too soon: it may still be written
    assert Attachment.objects.get(pk=file.pk).turn_id == asked.turn_id
    age(file, sweeping.BOUND_GRACE)
    sweeping.repair_attachments()
    file.refresh_from_db()
    assert (file.turn_id, file.status) == (None, "ready")
    metering.release(asked.turn_id)  # as the sweep of turns does
    assert ask(ana, attachments=ids(file))


def test_files_of_a_turn_that_was_never_written_stay_with_a_later_one_that_uses_them(
    ana: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    first = finish(ask(ana))
    shared, alone = attached(ana), attached(ana)

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("chat.turns.opening.tree.add_turn", die)
        with pytest.raises(KeyboardInterrupt):
            lost = question(conversation_id=first.conversation_id, attachments=ids(shared, alone))
            open_turn(ana.pk, lost)
    metering.release(lost.turn_id)
    age(shared, sweeping.BOUND_GRACE)
    bind_files(
        get_usable_files(ana.pk, ids(shared), turn_id=new_id(), conversation_id=first.conversation_id),
        turn_id=new_id(),
        conversation_id=first.conversation_id,
    )
    sweeping.repair_attachments()  # too soon: the later question is being written
    assert Attachment.objects.get(pk=shared.pk).conversation_id == first.conversation_id
    later = ask(ana, conversation_id=first.conversation_id, attachments=ids(shared))
    for file in (shared, alone):
        age(file, sweeping.BOUND_GRACE)
    sweeping.repair_attachments()
    for file in (shared, alone):
        age(file, 2 * DAY)
    sweeping.repair_attachments()
    found = Attachment.objects.get()
    assert (found.pk, found.turn_id, found.bound_at, found.status) == (shared.pk, later.pk, None, "ready")


def test_the_sweep_leaves_files_of_turns_that_are_there(ana: User, seeing: LanguageModel):
    file = attached(ana)
    turn = ask(ana, attachments=ids(file))
    for _ in range(2):
        age(file, DAY)
        sweeping.repair_attachments()
    file.refresh_from_db()
    assert (file.turn_id, file.bound_at, file.status) == (turn.pk, None, "ready")


# --- The end ----------------------------------------------------------------------------------------------------------


def test_an_abandoned_upload_goes_after_a_day(ana: User):
    old, new, refused = attached(ana), attached(ana), attached(ana, png_header(50_000, 50_000))
    age(old, DAY)
    age(refused, DAY)
    sweeping.repair_attachments()
    assert [row.pk for row in Attachment.objects.all()] == [new.pk]
    assert stored_names() == {new.stored, new.part("preview")}


def test_deleting_a_conversation_deletes_its_files(ana: User, seeing: LanguageModel):
    turn = finish(ask(ana, attachments=ids(attached(ana), attached(ana, pdf("a"), "a.pdf"))))
    other = finish(ask(ana, attachments=ids(attached(ana))))
    before = stored_names()
    deletion.delete_conversation(access.access_conversation(ana.pk, turn.conversation_id))
    [left] = Attachment.objects.all()
    assert left.turn_id == other.pk
    assert stored_names() == {left.stored, left.part("preview")} < before


def test_a_used_file_is_not_removed_alone(ana: User, api: Api, seeing: LanguageModel):
    file = attached(ana)
    ask(ana, attachments=ids(file))
    answer = api(ana).delete(f"{API}/{file.pk}")
    assert (answer.status_code, answer.json()["code"]) == (409, "file_used")
    with pytest.raises(Conflict):
        erasing.erase_unused(file)


def test_files_of_a_conversation_deleted_while_its_turn_is_written_go_too(
    ana: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    """The files are bound, then the conversation goes, then the turn would be written into nothing."""
    turn = finish(ask(ana))
    from history import tree

    add = tree.add_turn

    def deleted_before(turn: Turn) -> Turn:
        deletion.delete_conversation(access.access_conversation(ana.pk, turn.conversation_id))
        return add(turn)

    monkeypatch.setattr(tree, "add_turn", deleted_before)
    file = attached(ana)
    with pytest.raises(NotFound):
        ask(ana, attachments=ids(file), conversation_id=turn.conversation_id)
    assert stored_names() == set()
    assert not Attachment.objects.exists()


def test_files_bound_just_after_their_conversation_went_are_found_by_the_sweep(ana: User, seeing: LanguageModel):
    file = attached(ana)
    turn = finish(ask(ana, attachments=ids(file)))
    Conversation.objects.filter(pk=turn.conversation_id)._raw_delete("history")  # no signal reaches the files
    age(file, sweeping.BOUND_GRACE)
    sweeping.repair_attachments()
    assert not Attachment.objects.exists()
    assert stored_names() == set()


def test_one_file_that_cannot_be_erased_does_not_stop_the_next(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweeps, "PAGE_SIZE", 1)
    bad, good = attached(ana), attached(ana)
    in_its_place = Path(storage.storage().path(bad.part("text")))
    (in_its_place / "a folder").mkdir(parents=True)
    for file in (bad, good):
        age(file, DAY)
    sweeping.repair_attachments()
    assert [row.pk for row in Attachment.objects.all()] == [bad.pk]
    shutil.rmtree(in_its_place)
    sweeping.repair_attachments()
    assert not Attachment.objects.exists()


def test_a_deletion_that_died_is_finished_by_the_sweep(
    ana: User, seeing: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    turn = finish(ask(ana, attachments=ids(attached(ana))))

    def die(*_arguments: object, **_options: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase_hidden", die)
        deletion.delete_conversation(access.access_conversation(ana.pk, turn.conversation_id))
    assert stored_names()
    with pytest.raises(NotFound):
        serving.access_attachment(ana.pk, Attachment.objects.get().pk)
    sweeping.repair_attachments()
    assert stored_names() == set()
    assert not Attachment.objects.exists()


def test_an_account_that_is_deleted_takes_its_files_along(ana: User, bo: User, seeing: LanguageModel):
    attached(ana)
    ask(ana, attachments=ids(attached(ana)))
    theirs = attached(bo)
    ana.delete()
    assert [row.pk for row in Attachment.objects.all()] == [theirs.pk]
    assert stored_names() == {theirs.stored, theirs.part("preview")}
