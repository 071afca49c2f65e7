"""Conversations by the day they were last used, as a sidebar lists them."""

import datetime as dt
from collections.abc import Iterable
from itertools import groupby

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from history.models import Conversation

AGES: tuple[tuple[int, Promise], ...] = (
    (0, _("Today")),
    (1, _("Yesterday")),
    (7, _("Last 7 days")),
    (30, _("Last 30 days")),
)
OLDER = _("Older")


def by_age(conversations: Iterable[Conversation]) -> list[tuple[Promise, list[Conversation]]]:
    """Return the conversations, last used first, in groups named for their age. Today is there even when empty."""
    today = timezone.localdate()
    groups = [(label, list(rows)) for label, rows in groupby(conversations, lambda row: age_of(row, today))]
    today_label = AGES[0][1]
    return groups if groups and groups[0][0] is today_label else [(today_label, []), *groups]


def age_of(conversation: Conversation, today: dt.date) -> Promise:
    days = (today - timezone.localdate(conversation.updated_at)).days
    return next((label for most, label in AGES if days <= most), OLDER)
