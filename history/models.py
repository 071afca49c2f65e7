"""Conversations and turns: MongoDB in production, SQLite or PostgreSQL elsewhere, the same models.

Rules that keep one set of models true everywhere (docs/adr/0001): UUIDv7 keys stored as `_id`, the owner on every row
and first in every index, no foreign keys, joins or database defaults, and each write is one atomic row write, because
MongoDB's `atomic` does nothing and its `select_for_update` takes no lock. What a new field means must also be right
where it is missing: processes that do not know it write after its migration, until they are restarted.
"""

import datetime as dt
from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """Return a UUIDv7: time-ordered, so that new rows lie together in an index."""
    return uuid7()


def now() -> dt.datetime:
    """Return the time, to the millisecond: MongoDB stores no more, and an answer must show what is stored."""
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


THERE: dict[str, Any] = {"is_deleted__isnull": True, "trashed_at__isnull": True}
"""By what `core.rows` and querysets find conversations that are neither deleted nor in the trash."""


class TitledBy(models.TextChoices):
    """Where the title of a conversation is from: the question's first words, a model, or its owner."""

    WORDS = "words"
    MODEL = "model"
    PERSON = "person"


class Folder(models.Model):
    """A person's folder of conversations. A conversation that is begun in it gets the folder's model and instructions.

    `model` is the key of a model, or empty; `instructions` are sent to the model with every question.
    """

    MAX_INSTRUCTIONS = 4_000

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    name = models.CharField(_("name"), max_length=100)
    model = models.CharField(_("model"), max_length=100, blank=True, default="")
    instructions = models.TextField(_("instructions"), max_length=MAX_INSTRUCTIONS, blank=True, default="")
    created_at = models.DateTimeField(_("created"), default=now, editable=False)

    class Meta:
        verbose_name = _("folder")
        verbose_name_plural = _("folders")
        indexes = (models.Index(fields=["owner_id", "name"], name="folder_of_owner"),)

    def __str__(self) -> str:
        return str(self.id)


class Conversation(models.Model):
    """One conversation.

    `leaf_id` is the last turn of the branch its owner has chosen; null is the turn that was asked last, and so it is
    again when one is added, unless that is asked beside another, which is chosen then. `trashed_at` is when it was put
    into the trash, from where it can be taken back; `is_deleted` hides it until its rows are erased
    (history/deletion.py), and while it is being forked from another (history/forks.py).

    `search_title` is the title as it is searched (history/folding.py), written wherever the title is.

    `kept_since` is when it was taken out of the trash, or imported: how long it is kept
    counts from then, if that is later than its last use (history/trash.py).

    `is_deleted`, `is_pinned` and `is_archived` are True or null: what a process writes that does not know the field yet
    is not deleted, on every store.
    """

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    title = models.CharField(_("title"), max_length=200, blank=True)
    search_title = models.TextField(null=True, editable=False)  # noqa: DJ001  what a process writes that does not know it yet
    titled_by = models.CharField(max_length=6, choices=TitledBy, default=TitledBy.WORDS)
    turn_count = models.IntegerField(_("turns"), default=0)
    leaf_id = models.UUIDField(null=True, editable=False)
    folder_id = models.UUIDField(null=True, editable=False)
    is_pinned = models.BooleanField(_("pinned"), null=True)
    is_archived = models.BooleanField(_("archived"), null=True)
    trashed_at = models.DateTimeField(_("in the trash since"), null=True, editable=False)
    kept_since = models.DateTimeField(null=True, editable=False)
    is_deleted = models.BooleanField(null=True, editable=False)
    created_at = models.DateTimeField(_("begun"), default=now, editable=False)
    updated_at = models.DateTimeField(_("last used"), default=now)

    class Meta:
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        indexes = (
            models.Index(fields=["owner_id", "-updated_at"], name="conversation_recent"),
            models.Index(fields=["owner_id", "folder_id", "-updated_at"], name="conversation_in_folder"),
            models.Index(fields=["owner_id", "-updated_at"], condition=Q(is_pinned=True), name="conversation_pinned"),
            models.Index(
                fields=["owner_id", "-updated_at"], condition=Q(is_archived=True), name="conversation_archived"
            ),
            models.Index(fields=["owner_id", "-trashed_at"], name="conversation_in_trash"),
            models.Index(fields=["trashed_at", "id"], name="conversation_trashed"),
            models.Index(fields=["owner_id", "trashed_at", "is_pinned", "updated_at"], name="conversation_unused"),
            models.Index(fields=["created_at", "id"], condition=Q(is_deleted=True), name="conversation_deleted"),
        )

    def __str__(self) -> str:
        return str(self.id)


class Turn(models.Model):
    """One question and its answer, a node of the conversation's tree.

    `seq` is the order of creation in the conversation (clients' clocks are wrong), `depth` the number of turns before
    it on its branch, `gen` how often a runner has started to write it: live text of another generation is void.
    `beside_id` is the sibling that was asked at the same time of another model, and is shown beside it.
    `instructions` are those of the folder the question was asked in; null is none.
    `candidates` are the keys of the models that may answer, best first, `route` is the code of Auto's reason for them.
    `instead_of` is the model that should have answered and failed before its first token, `instead_because` the code
    of its error. `attachments` and `price` are JSON: the files, and the prices by which the cost was calculated.
    `max_cost_micros` is what was reserved for it, null where a process wrote it that does not know the field yet.
    `unanswered` is JSON, too: the requests that were sent for it and gave no answer. Null is none.
    `is_completion` is True or null: a program has sent it, with the whole conversation, over the OpenAI-compatible API.
    `tool_calls` are the tools that such an answer calls, as lines of JSON (chat/turns/called_tools.py); null is none.
    `dialogue` is a digest of all that such a conversation had come to with this turn, where it is kept, by which the
    next request finds what it goes on from (chat/turns/dialogues.py); null is none.
    `needs` says what a runner must know to answer it (chat/turns/needs.py); null is nothing new.
    `embedding` is what the turn means, as numbers; `embedded_by` the edition of what made it. Null is not made yet
    (history/embeddings.py).
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("waiting")
        STREAMING = "streaming", _("being written")
        COMPLETED = "completed", _("completed")
        STOPPED = "stopped", _("stopped")
        FAILED = "failed", _("failed")
        INTERRUPTED = "interrupted", _("interrupted")

    OPEN = (Status.QUEUED, Status.STREAMING)

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    conversation_id = models.UUIDField(_("conversation"))
    parent_id = models.UUIDField(null=True)
    beside_id = models.UUIDField(null=True)
    seq = models.IntegerField()
    depth = models.IntegerField(default=0)
    status = models.CharField(_("status"), max_length=11, choices=Status, default=Status.QUEUED)
    gen = models.IntegerField(default=0)

    question = models.TextField()
    instructions = models.TextField(blank=True, null=True, editable=False)  # noqa: DJ001  as `unanswered`
    answer = models.TextField(blank=True, default="")
    reasoning = models.TextField(blank=True, default="")
    tool_calls = models.TextField(blank=True, null=True, editable=False)  # noqa: DJ001  as `unanswered`
    search_text = models.TextField(blank=True, default="")
    embedding = models.BinaryField(null=True, editable=False)
    embedded_by = models.SmallIntegerField(null=True, editable=False)

    attachments = models.TextField(blank=True, default="")
    is_completion = models.BooleanField(null=True, editable=False)
    dialogue = models.CharField(max_length=32, null=True, editable=False)  # noqa: DJ001  as `unanswered`
    needs = models.SmallIntegerField(null=True, editable=False)

    requested_model = models.CharField(_("model asked for"), max_length=100)
    candidates = models.TextField(blank=True, default="")
    route = models.CharField(_("why this model"), max_length=20, blank=True, default="")
    effort = models.CharField(_("effort"), max_length=10, blank=True, default="")
    model = models.CharField(_("model"), max_length=100, blank=True, default="")
    provider = models.CharField(_("provider"), max_length=50, blank=True, default="")
    instead_of = models.CharField(_("in place of"), max_length=100, blank=True, default="")
    instead_because = models.CharField(max_length=40, blank=True, default="")
    is_from_cache = models.BooleanField(_("from cache"), default=False)
    max_output = models.IntegerField(_("longest answer, tokens"))
    max_cost_micros = models.BigIntegerField(_("reserved"), null=True)
    trimmed_turns = models.IntegerField(_("turns left out of the prompt"), default=0)
    input_tokens = models.IntegerField(_("input"), default=0)
    cache_read_tokens = models.IntegerField(default=0)
    cache_write_tokens = models.IntegerField(default=0)
    output_tokens = models.IntegerField(_("output"), default=0)
    reasoning_tokens = models.IntegerField(default=0)
    usage_source = models.CharField(max_length=9, blank=True, default="")
    cost_micros = models.BigIntegerField(_("cost"), null=True)
    price = models.TextField(blank=True, default="")
    unanswered = models.TextField(blank=True, null=True)  # noqa: DJ001  what a process writes that does not know it yet
    finish_reason = models.CharField(_("finish reason"), max_length=20, blank=True, default="")
    error = models.CharField(_("error"), max_length=40, blank=True, default="")

    created_at = models.DateTimeField(_("asked"), default=now, editable=False)
    started_at = models.DateTimeField(_("claimed"), null=True)
    first_token_at = models.DateTimeField(_("first token"), null=True)
    reasoning_ms = models.IntegerField(_("thought for, ms"), default=0)
    completed_at = models.DateTimeField(_("finished"), null=True)

    class Meta:
        verbose_name = _("turn")
        verbose_name_plural = _("turns")
        indexes = (
            models.Index(fields=["owner_id", "conversation_id", "seq"], name="turn_page"),
            models.Index(fields=["owner_id", "conversation_id", "parent_id", "seq"], name="turn_siblings"),
            models.Index(fields=["owner_id", "-created_at", "-id"], name="turn_newest"),
            models.Index(fields=["owner_id", "-created_at"], condition=Q(attachments__gt=""), name="turn_with_files"),
            models.Index(
                fields=["owner_id", "dialogue", "-created_at"],
                condition=Q(is_completion=True),
                name="turn_of_dialogue",
            ),
            models.Index(fields=["status", "created_at"], name="turn_open"),
            models.Index(fields=["embedded_by", "created_at"], name="turn_embedded"),
        )
        constraints = (models.UniqueConstraint(fields=["conversation_id", "seq"], name="one_seq"),)

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_open(self) -> bool:
        return self.status in Turn.OPEN


class SharedPage(models.Model):
    """A branch as it was when its owner shared it, behind a link that only those know who were given it.

    `until_id` is the last turn of the branch; null was the end of the branch its owner had chosen. `secret` is the part
    of the link that nobody can guess (docs/adr/0021). `edition` is what SharedTurn calls the rows that are shown: null
    until all of the first are written, while `next_edition` is being written. `size` is their length in characters.
    `unsettled_at` is when something was begun that may leave rows behind: until it is null, the sweep looks after it.
    `author` is empty unless the owner wants to be named.

    `is_for_members` and `is_revoked` are True or null.
    """

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    conversation_id = models.UUIDField(_("conversation"))
    until_id = models.UUIDField(null=True)
    secret = models.CharField(max_length=22, editable=False)
    title = models.CharField(_("title"), max_length=200, blank=True)
    author = models.CharField(_("author"), max_length=100, blank=True, default="")
    is_for_members = models.BooleanField(_("for members only"), null=True)
    edition = models.UUIDField(null=True)
    next_edition = models.UUIDField(null=True)
    turn_count = models.IntegerField(_("turns"), default=0)
    size = models.IntegerField(_("characters"), default=0)
    report_count = models.IntegerField(_("reports"), default=0)
    reported_at = models.DateTimeField(_("last reported"), null=True)
    taken_down_at = models.DateTimeField(_("taken down"), null=True)
    takedown_reason = models.CharField(_("why"), max_length=200, blank=True, default="")
    is_revoked = models.BooleanField(null=True)
    unsettled_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(_("expires"), null=True)
    created_at = models.DateTimeField(_("shared"), default=now, editable=False)
    updated_at = models.DateTimeField(_("as it was"), default=now)

    class Meta:
        verbose_name = _("shared page")
        verbose_name_plural = _("shared pages")
        indexes = (
            models.Index(fields=["owner_id", "-created_at"], name="share_of_owner"),
            models.Index(fields=["owner_id", "conversation_id"], name="share_of_conversation"),
            models.Index(fields=["expires_at"], name="share_expiring"),
            models.Index(fields=["unsettled_at"], name="share_unsettled"),
            models.Index(fields=["reported_at"], name="share_reported"),
        )

    def __str__(self) -> str:
        return str(self.id)


class SharedTurn(models.Model):
    """One question and its answer, as a share shows them. `position` counts from 0; `model` is its name, as people
    know it; `files` is a JSON array of the names of the files that were attached."""

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField()
    share_id = models.UUIDField()
    edition = models.UUIDField()
    position = models.IntegerField()
    question = models.TextField()
    answer = models.TextField()
    model = models.CharField(max_length=100, blank=True)
    files = models.TextField(blank=True, default="")
    is_cut = models.BooleanField(null=True)
    asked_at = models.DateTimeField()
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        indexes = (models.Index(fields=["owner_id", "share_id", "edition", "position"], name="shared_turn_page"),)

    def __str__(self) -> str:
        return str(self.id)


class ShareReport(models.Model):
    """What somebody who opened a shared page finds wrong with it. `owner_id` is the owner of the share."""

    class Reason(models.TextChoices):
        ILLEGAL = "illegal", _("It is against the law")
        HARMFUL = "harmful", _("It hurts or threatens somebody")
        PRIVATE = "private", _("It shows private data of somebody")
        SPAM = "spam", _("It is spam or a fraud")
        OTHER = "other", _("Something else")

    MAX_TEXT = 1_000

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField()
    share_id = models.UUIDField()
    reason = models.CharField(max_length=10, choices=Reason)
    text = models.TextField(max_length=MAX_TEXT, blank=True, default="")
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        indexes = (models.Index(fields=["owner_id", "share_id"], name="report_of_share"),)

    def __str__(self) -> str:
        return str(self.id)


class ShareCopy(models.Model):
    """That a conversation is being copied from a share: its id is the conversation's, `owner_id` is who copies.

    Its turns are written first and the conversation last, so that it is seen when it is whole; then this row goes. The
    sweep erases the turns of a copy that nobody has finished.
    """

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField()
    edition = models.UUIDField()
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        indexes = (
            models.Index(fields=["owner_id"], name="copy_of_owner"),
            models.Index(fields=["created_at", "id"], name="copy_by_age"),
        )

    def __str__(self) -> str:
        return str(self.id)


class Transfer(models.Model):
    """What an import and an export of everything have in common: a worker works at it, and may die anywhere.

    `gen` is raised by whoever takes it, and every write of a worker is conditional on it; `tries` counts those who took
    it since it last got on. `key` is a random name of its files in the storage.
    """

    OPEN: ClassVar[tuple[str, ...]]
    """The states of one that is not finished."""

    id = models.UUIDField(primary_key=True, default=new_id, db_column="_id", editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    status = models.CharField(max_length=8)
    key = models.CharField(max_length=32)
    size = models.BigIntegerField(default=0)
    gen = models.IntegerField(default=0)
    tries = models.IntegerField(default=0)
    claimed_at = models.DateTimeField(null=True)
    total = models.IntegerField(default=0)
    done = models.IntegerField(default=0)
    created_at = models.DateTimeField(_("begun"), default=now, editable=False)
    finished_at = models.DateTimeField(_("finished"), null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN


class Import(Transfer):
    """A file with conversations from elsewhere, until they are in the history.

    `percent` is how far reading it is; then `done` of `total` conversations were gone through, of which `imported` with
    `turns` are new and `known` were there before; `position` is where in the file that reading made the next one
    begins. `left_out` is JSON: how much of what kind. `error` is the code of a refusal, `place` JSON: where
    in the file.
    """

    class Status(models.TextChoices):
        UPLOADED = "uploaded", _("waiting")
        READING = "reading", _("being read")
        WRITING = "writing", _("being written")
        DONE = "done", _("done")
        REFUSED = "refused", _("refused")
        ERASED = "erased", _("erased")

    OPEN = (Status.UPLOADED, Status.READING, Status.WRITING)

    name = models.CharField(max_length=100)
    status = models.CharField(max_length=8, choices=Status, default=Status.UPLOADED)
    source = models.CharField(max_length=20, blank=True, default="")
    percent = models.IntegerField(default=0)
    position = models.BigIntegerField(default=0)
    imported = models.IntegerField(default=0)
    known = models.IntegerField(default=0)
    turns = models.IntegerField(default=0)
    left_out = models.TextField(blank=True, default="")
    error = models.CharField(max_length=40, blank=True, default="")
    place = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = _("import")
        verbose_name_plural = _("imports")
        indexes = (
            models.Index(fields=["owner_id", "-created_at"], name="import_of_owner"),
            models.Index(fields=["status", "created_at"], name="import_open"),
        )


class Export(Transfer):
    """A zip of all conversations of a person, kept for some days. `total` and `done` are conversations."""

    class Status(models.TextChoices):
        WAITING = "waiting", _("waiting")
        WRITING = "writing", _("being written")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")
        ERASED = "erased", _("erased")

    OPEN = (Status.WAITING, Status.WRITING)

    status = models.CharField(max_length=8, choices=Status, default=Status.WAITING)

    class Meta:
        verbose_name = _("export")
        verbose_name_plural = _("exports")
        indexes = (
            models.Index(fields=["owner_id", "-created_at"], name="export_of_owner"),
            models.Index(fields=["status", "created_at"], name="export_open"),
        )
