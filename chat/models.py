"""The models an operator offers, the files people attach, batches of what programs ask, what people were told of their
history, and when the staff read in it."""

from typing import Any, ClassVar
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinLengthValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from chat.provider_registry import NO_EFFORT, PAID_PROVIDERS
from history.models import new_id, now

MAX_PRICE_MICROS = 1_000_000_000
"""Micro-US-dollars a million tokens. Nothing costs a thousand dollars: a higher price is in the wrong unit."""
MAX_EFFORT_LENGTH = 10  # characters, as Turn.effort
PRICE_KINDS = ("input", "output", "cache_read", "cache_write")
"""Each has a field `<kind>_price`, and may be in a list price."""

PRICE_FIELD_OPTIONS: dict[str, Any] = {"null": True, "blank": True, "validators": [MaxValueValidator(MAX_PRICE_MICROS)]}


class LanguageModel(models.Model):
    """One model of one provider. Prices are micro-US-dollars a million tokens.

    `input_price` and the others are the operator's own; where one is empty the provider's published one counts, which
    `list_price` keeps (its shape: chat/llm/price_list.py, and `as_of`, the day it was read). Neither means unknown,
    never free: such a model is not offered.
    """

    class Tier(models.TextChoices):
        DEMO = "demo", _("Demo")
        CHEAP = "cheap", _("Quick")
        MID = "mid", _("Balanced")
        STRONG = "strong", _("Strong")

    class MaxTokensParameter(models.TextChoices):
        OLD = "max_tokens"
        NEW = "max_completion_tokens"

    key = models.CharField(_("key"), max_length=100, unique=True, help_text=_("How the API names it."))
    provider = models.CharField(_("provider"), max_length=50)
    provider_model = models.CharField(_("provider's id"), max_length=200)
    label = models.CharField(_("label"), max_length=100)
    tier = models.CharField(_("tier"), max_length=6, choices=Tier)
    position = models.PositiveSmallIntegerField(_("position"), default=100)
    enabled = models.BooleanField(_("enabled"), default=True)
    context_window = models.PositiveIntegerField(_("window, tokens"), validators=[MinValueValidator(512)])
    max_output = models.PositiveIntegerField(_("longest answer, tokens"), validators=[MinValueValidator(1)])
    input_price = models.PositiveBigIntegerField(_("input price"), **PRICE_FIELD_OPTIONS)
    output_price = models.PositiveBigIntegerField(_("output price"), **PRICE_FIELD_OPTIONS)
    cache_read_price = models.PositiveBigIntegerField(_("cache read price"), **PRICE_FIELD_OPTIONS)
    cache_write_price = models.PositiveBigIntegerField(_("cache write price"), **PRICE_FIELD_OPTIONS)
    list_price = models.JSONField(_("list price"), null=True, blank=True, editable=False)
    markup_percent = models.PositiveSmallIntegerField(
        _("markup, %"),
        default=0,
        validators=[MaxValueValidator(1_000)],
        help_text=_("Added to what the provider takes, before the sum is rounded up to a millionth of a dollar."),
    )
    max_tokens_parameter = models.CharField(max_length=30, choices=MaxTokensParameter, default=MaxTokensParameter.OLD)
    sees_images = models.BooleanField(_("sees images"), default=False)
    reads_pdfs = models.BooleanField(
        _("reads PDFs"), default=False, help_text=_("Takes them as they are; others get their text.")
    )
    reasons = models.BooleanField(_("reasons"), default=False, help_text=_("May think silently before its first word."))
    efforts = models.CharField(
        _("efforts"),
        max_length=60,
        blank=True,
        help_text=_(
            "How hard it can be told to think, as its provider names it, from least to most: “low medium high”."
        ),
    )

    class Meta:
        verbose_name = _("model")
        verbose_name_plural = _("models")
        ordering = ("position", "key")
        constraints = (
            models.UniqueConstraint(fields=["provider", "provider_model"], name="one_row_a_model"),
            models.CheckConstraint(condition=Q(max_output__lt=models.F("context_window")), name="output_fits_window"),
        )

    def __str__(self) -> str:
        return self.label

    def clean(self) -> None:
        """Refuse a price of zero for a paid provider, whose unknown price is left empty, and the name of an effort
        level that is too long for a turn."""
        errors = {
            name: _("This provider is never free. Leave the price empty: its list price counts, if it is known.")
            for name in ("input_price", "output_price")
            if getattr(self, name) == 0 and self.provider in PAID_PROVIDERS
        }
        if any(len(level) > MAX_EFFORT_LENGTH for level in self.effort_levels):
            errors["efforts"] = _("No provider has so long a word for an effort.")
        if errors:
            raise ValidationError(errors)

    @property
    def is_priced(self) -> bool:
        listed = self.list_price or {}
        return all(getattr(self, f"{name}_price") is not None or name in listed for name in ("input", "output"))

    @property
    def is_free(self) -> bool:
        """Only an operator can say so: a list price is never nothing. A price for the cache is a price too."""
        listed = self.list_price or {}
        own = {kind: getattr(self, f"{kind}_price") for kind in PRICE_KINDS}
        is_priced = any(kind in listed if price is None else price for kind, price in own.items())
        return own["input"] == own["output"] == 0 and not is_priced

    @property
    def effort_levels(self) -> list[str]:
        """How hard it can be told to think, from least to most."""
        return self.efforts.split()

    def thinks_at(self, effort: str) -> bool:
        """Return whether it thinks before it answers when it is told to think that hard; empty is its own choice."""
        if effort in self.effort_levels:
            return effort not in NO_EFFORT
        return self.reasons

    @property
    def remark(self) -> str:
        """What a person should know before choosing it."""
        if self.tier == self.Tier.DEMO:
            return gettext("A toy that runs on this machine: short answers in English, and poor Spanish.")
        if self.is_free:
            return gettext("Runs on our own machines: costs no credits.")
        return ""


class ProviderLimit(models.Model):
    """What a provider may charge in a day (UTC), in micro-US-dollars. Beyond it, its paid models stop answering."""

    provider = models.CharField(_("provider"), max_length=50, unique=True)
    daily_micros = models.PositiveBigIntegerField(_("a day"))

    class Meta:
        verbose_name = _("daily limit of a provider")
        verbose_name_plural = _("daily limits of providers")
        ordering = ("provider",)

    def __str__(self) -> str:
        return self.provider


class Attachment(models.Model):
    """A file somebody attached, from its upload to the end of its conversation.

    `key` is random and names its parts in the storage: `source` is what came, the others what attempt number `attempts`
    made of it. `turn_id` is the first turn that used it, `bound_at` is set until a sweep has seen that turn. `tokens`
    is the estimate of its text, `is_cut` whether that is only the beginning.
    """

    class Kind(models.TextChoices):
        IMAGE = "image"
        PDF = "pdf"
        TEXT = "text"

    class Status(models.TextChoices):
        UPLOADED = "uploaded"
        PROCESSING = "processing"
        READY = "ready"
        REFUSED = "refused"
        ERASED = "erased"  # on its way out: nobody is shown it any more

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner_id = models.BigIntegerField()
    conversation_id = models.UUIDField(null=True, db_index=True)
    turn_id = models.UUIDField(null=True)
    bound_at = models.DateTimeField(null=True, db_index=True)
    kind = models.CharField(max_length=5, choices=Kind)
    name = models.CharField(max_length=120)
    media_type = models.CharField(max_length=30)
    size = models.PositiveIntegerField()
    pages = models.PositiveIntegerField(default=0)
    width = models.PositiveIntegerField(default=0)
    height = models.PositiveIntegerField(default=0)
    tokens = models.PositiveIntegerField(default=0)
    is_cut = models.BooleanField(default=False)
    sha256 = models.CharField(max_length=64)
    key = models.CharField(max_length=32, unique=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.UPLOADED)
    error = models.CharField(max_length=40, blank=True, default="")
    attempts = models.PositiveSmallIntegerField(default=0)
    claimed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        indexes = (
            models.Index(fields=["owner_id", "created_at"], name="attachment_owner"),
            models.Index(fields=["status", "created_at"], name="attachment_status"),
        )

    def __str__(self) -> str:
        return str(self.id)

    def part(self, name: str) -> str:
        """Return the storage's name of one part: `source`, or of this attempt `file`, `preview` or `text`."""
        return f"{self.key[:2]}/{self.key}/{name if name == 'source' else f'{self.attempts}-{name}'}"

    @property
    def stored(self) -> str:
        """The storage's name of what is served and sent: a PDF as it came, the others made anew."""
        return self.part("source" if self.kind == self.Kind.PDF else "file")


class Batch(models.Model):
    """A file of what a program asks, a line each, which a worker has answered while nobody waits (chat/batches/).

    `gen` is raised by whichever worker takes it, and what a worker writes is conditional on it. `key` is a random word
    in the name of its file, which is kept until it is over. Of the file `position` bytes, which are `lines_read` lines,
    are checked, and `total` requests are there; `estimate_micros` is what they may cost, `most_micros` the most.
    `completed`, `failed` and `cost_micros` are written with each line, in the transaction that pays for it. `problems`
    is JSON: what is wrong with which lines of a file that was refused. `error` is why it was stopped, or is being.
    `with_key` is the id of the API key that made it, if one did: its month pays too.
    """

    class Status(models.TextChoices):
        VALIDATING = "validating", _("being checked")
        VALIDATED = "validated", _("checked, not started")
        REFUSED = "refused", _("refused")
        RUNNING = "running", _("running")
        STOPPING = "stopping", _("being stopped")
        COMPLETED = "completed", _("done")
        CANCELLED = "cancelled", pgettext_lazy("a batch", "cancelled")
        STOPPED = "stopped", _("stopped")
        ERASED = "erased", _("erased")

    OPEN: ClassVar = (Status.VALIDATING, Status.RUNNING, Status.STOPPING)
    """A worker has something to do."""
    OVER: ClassVar = (Status.REFUSED, Status.COMPLETED, Status.CANCELLED, Status.STOPPED)

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner_id = models.BigIntegerField(_("owner"))
    with_key = models.UUIDField(null=True)
    name = models.CharField(_("file"), max_length=100)
    size = models.BigIntegerField(_("size"))
    key = models.CharField(max_length=32)
    status = models.CharField(_("status"), max_length=10, choices=Status, default=Status.VALIDATING)
    error = models.CharField(_("error"), max_length=40, blank=True, default="")
    problems = models.TextField(blank=True, default="")
    position = models.BigIntegerField(default=0)
    lines_read = models.IntegerField(default=0)
    total = models.IntegerField(_("lines"), default=0)
    completed = models.IntegerField(_("answered"), default=0)
    failed = models.IntegerField(_("failed"), default=0)
    estimate_micros = models.BigIntegerField(_("estimate, micros"), default=0)
    most_micros = models.BigIntegerField(_("the most, micros"), default=0)
    cost_micros = models.BigIntegerField(_("cost, micros"), default=0)
    max_cost_micros = models.BigIntegerField(_("limit, micros"), null=True)
    starts_itself = models.BooleanField(default=False)
    webhook_url = models.CharField(max_length=500, blank=True, default="")
    webhook_secret = models.TextField(blank=True, default="")  # encrypted
    webhook_due_at = models.DateTimeField(null=True)
    webhook_tries = models.IntegerField(_("tries of its webhook"), default=0)
    webhook_sent_at = models.DateTimeField(_("webhook taken"), null=True)
    gen = models.IntegerField(default=0)
    claimed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(_("sent"), default=now, editable=False)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        indexes = (
            models.Index(fields=["owner_id", "-created_at"], name="batch_of_owner"),
            models.Index(fields=["status", "created_at"], name="batch_status"),
            models.Index(
                fields=["webhook_due_at"], condition=Q(webhook_due_at__isnull=False), name="batch_webhook_due"
            ),
        )

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN

    @property
    def is_over(self) -> bool:
        return self.status in self.OVER

    @property
    def done(self) -> int:
        return self.completed + self.failed


class BatchLine(models.Model):
    """A line of a batch, and its answer (chat/turns/line_answers.py). In the file it is `length` bytes at `position`.

    `turn_id` is the turn that answers it while it is open, and has answered it when it is done; a line that waits has
    none. It follows from the batch, `number` and `tries`: a worker that died before it said what it has opened is
    followed by one that opens the same. `most_micros` is the most it can cost, which counts against the batch's limit
    while it is open.
    """

    class Status(models.TextChoices):
        WAITING = "waiting"
        OPEN = "open"
        DONE = "done"

    batch = models.ForeignKey(Batch, models.CASCADE, related_name="lines", db_index=False)
    number = models.PositiveIntegerField()
    custom_id = models.CharField(max_length=256)
    position = models.BigIntegerField()
    length = models.IntegerField()
    status = models.CharField(max_length=7, choices=Status, default=Status.WAITING)
    tries = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(null=True)
    turn_id = models.UUIDField(null=True, unique=True)
    opened_at = models.DateTimeField(null=True)
    most_micros = models.BigIntegerField(default=0)
    answer = models.TextField(blank=True, default="")
    cost_micros = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["batch", "number"], name="one_line_of_number"),
            models.UniqueConstraint(fields=["batch", "custom_id"], name="one_line_of_custom_id"),
        )
        indexes = (models.Index(fields=["batch", "status", "number"], name="batch_line_status"),)

    def __str__(self) -> str:
        return f"{self.batch_id}:{self.number}"


class StaffReading(models.Model):
    """That one of the staff may read one conversation of a member, why, and until when (chat/shown/staff_reading.py).

    The member is told by mail, and sees the row for as long as they have an account. It is written before anything can
    be read.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        related_name="staff_readings",
        editable=False,
        verbose_name=_("whose it is"),
    )
    conversation_id = models.UUIDField(_("conversation"))
    staff = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", editable=False, verbose_name=_("who")
    )
    staff_email = models.EmailField(_("who"), max_length=254, editable=False)
    reason = models.CharField(
        _("why"), max_length=300, validators=[MinLengthValidator(10)], help_text=_("Its owner reads this.")
    )
    created_at = models.DateTimeField(_("since"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("until"), editable=False)

    class Meta:
        verbose_name = _("reading of a conversation")
        verbose_name_plural = _("readings of conversations")
        indexes = (models.Index(fields=["user", "-created_at"], name="staff_reading_of_user"),)

    def __str__(self) -> str:
        return str(self.conversation_id)


class HistoryNotice(models.Model):
    """That a person was told: from `goes_at` on, what was not used for `days` goes into the trash.

    The row is written when the mail is on its way; without it, nothing is removed (chat/turns/retention.py).
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="history_notices", db_index=False)
    days = models.PositiveIntegerField()
    sent_at = models.DateTimeField()
    goes_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["user", "days"], name="one_notice_for_days"),)

    def __str__(self) -> str:
        return f"{self.user_id} {self.days}"
