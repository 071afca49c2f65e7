"""Groups conversations by the day they were last used, as the sidebar lists them."""

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


def group_by_age(conversations: Iterable[Conversation]) -> list[tuple[Promise, list[Conversation]]]:
    """Return the conversations, last used first, in groups labelled by age. Today is always a group, even if empty."""
    today = timezone.localdate()
    groups = [(label, list(rows)) for label, rows in groupby(conversations, lambda row: age_label_of(row, today))]
    today_label = AGES[0][1]
    return groups if groups and groups[0][0] is today_label else [(today_label, []), *groups]


def continue_groups(
    conversations: Iterable[Conversation], after: dt.datetime
) -> list[tuple[Promise | None, list[Conversation]]]:
    """Return the groups of conversations that follow one used at `after`: the first has no label if it goes on with the
    same age."""
    today = timezone.localdate()
    last_label = _label_of(after, today)
    groups = groupby(conversations, lambda row: age_label_of(row, today))
    return [(None if label is last_label else label, list(rows)) for label, rows in groups]


def age_label_of(conversation: Conversation, today: dt.date) -> Promise:
    return _label_of(conversation.updated_at, today)


def _label_of(moment: dt.datetime, today: dt.date) -> Promise:
    age_days = (today - timezone.localdate(moment)).days
    return next((label for max_days, label in AGES if age_days <= max_days), OLDER)
