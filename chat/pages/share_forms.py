"""The forms of sharing: what an owner shares, and what a reader reports."""

import datetime as dt
from typing import Any
from uuid import UUID

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from history.models import ShareReport, new_id
from history.sharing import Terms


class ShareForm(forms.Form):
    """`id` is that of the new share, so that a form that is sent twice makes one. `name` is the owner's."""

    id = forms.UUIDField(widget=forms.HiddenInput)
    until = forms.UUIDField(widget=forms.HiddenInput, required=False)
    days = forms.TypedChoiceField(
        label=_("The link works"),
        coerce=int,
        choices=[(0, _("until I stop it")), (1, _("for a day")), (7, _("for a week")), (30, _("for 30 days"))],
    )
    is_for_members = forms.BooleanField(label=_("Only for people who are logged in here"), required=False)
    is_named = forms.BooleanField(required=False)

    def __init__(self, data: Any = None, *, name: str, until: UUID | None = None) -> None:
        super().__init__(data, initial={"id": new_id(), "until": until, "days": 0})
        self._name = name
        if name:
            self.fields["is_named"].label = _("Show my name: %(name)s") % {"name": name}
        else:
            del self.fields["is_named"]

    def terms(self) -> Terms:
        """Return what was chosen, of a valid form."""
        chosen = self.cleaned_data
        expires_at = timezone.now() + dt.timedelta(days=chosen["days"]) if chosen["days"] else None
        name = self._name if chosen.get("is_named") else ""
        return Terms(chosen["until"], expires_at, chosen["is_for_members"], name)


class ReportForm(forms.Form):
    id = forms.UUIDField(widget=forms.HiddenInput)
    reason = forms.ChoiceField(label=_("What is wrong with it?"), choices=ShareReport.Reason)
    text = forms.CharField(
        label=_("What should we know?"),
        max_length=ShareReport.MAX_TEXT,
        required=False,
        widget=forms.Textarea(attrs={"rows": 4}),
    )
