"""The parts of attachments in the storage: the file as it came, and what every attempt to read it made of it."""

from collections.abc import Iterable, Iterator

from django.core.files.storage import Storage, storages

from chat.models import Attachment

MADE_PARTS = ("file", "preview", "text")
"""What reading a file may make of it; a model's `part` says more."""


def storage() -> Storage:
    return storages["attachments"]


def drop_parts(attachment: Attachment, *, except_names: Iterable[str] = ()) -> None:
    """Delete everything the storage may have of an attachment, of every attempt, except these names."""
    kept = set(except_names)
    last = attachment.attempts
    names = [attachment.part("source")]
    for attempt in range(1, last + 1):
        attachment.attempts = attempt
        names += map(attachment.part, MADE_PARTS)
    attachment.attempts = last
    for name in names:
        if name not in kept:
            storage().delete(name)
    if not kept:
        _drop_folder(attachment)


def list_parts(folder: str = "") -> Iterator[str]:
    """Yield the names of all parts that the storage has, a folder at a time."""
    try:
        folders, names = storage().listdir(folder)
    except FileNotFoundError:  # erased meanwhile, or nobody has attached anything yet
        return
    inside = f"{folder}/" if folder else ""
    for name in sorted(names):
        yield inside + name
    for name in sorted(folders):
        yield from list_parts(inside + name)


def has_row(name: str) -> bool:
    """Return whether a part belongs to an attachment."""
    return Attachment.objects.filter(key=name.rpartition("/")[0].rpartition("/")[2]).exists()


def _drop_folder(attachment: Attachment) -> None:
    """Remove the empty folder, where the storage has folders."""
    try:
        storage().delete(attachment.part("source").rpartition("/")[0])
    except OSError:  # no folder, or a worker is just writing into it
        pass
