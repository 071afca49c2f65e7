"""Forks a conversation: a new one begins with copies of the turns that lead to one of it, and costs nothing."""

from uuid import UUID

import msgspec
from django.utils.translation import gettext

from chat.attachments.binding import decode_attached, encode_attached
from chat.attachments.copying import copy_files
from chat.turns.limits import count_fork, count_upload
from chat.turns.notices import send_notice
from history import access, forks, tree
from history.models import Conversation


def fork(owner_id: int, turn_id: UUID, conversation_id: UUID) -> Conversation:
    """Return a new conversation, of that id, with the turns that lead to one and that one; the same id again returns
    what is there. The client's pages are told.

    Raises NotFound, ParentNotFinished while the turn is being written, RateLimited, also for the files, and what
    `read_path`, `begin_copy` and `finish_copy` raise.
    """
    turn, original = access.access_stored_turn(owner_id, turn_id)
    tree.check_finished(turn)
    count_fork(owner_id)
    path = forks.read_path(turn)
    if file_ids := {file.id for row in path for file in decode_attached(row.attachments)}:
        count_upload(owner_id, files=len(file_ids))
    copy = forks.begin_copy(original, conversation_id, title=_title_of_fork(original.title))
    if not copy.is_deleted:
        return copy
    copies = forks.copies_of(path, copy)
    listed = [(row.pk, decode_attached(row.attachments)) for row in copies]
    files = copy_files(listed, owner_id=owner_id, conversation_id=copy.pk)
    for row, attached in zip(copies, (attached for _pk, attached in listed), strict=True):
        row.attachments = encode_attached([msgspec.structs.replace(file, id=files[file.id]) for file in attached])
    forks.finish_copy(copy, copies)
    send_notice(owner_id, copy.pk)
    return copy


def _title_of_fork(title: str) -> str:
    """Return the title with a mark, in the owner's language, within the length a title may have."""
    mark = gettext("(branch)")
    most = Conversation._meta.get_field("title").max_length or 0
    return title if title.endswith(mark) else f"{title[: most - len(mark) - 1]} {mark}".strip()
