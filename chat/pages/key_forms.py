"""The form of a new API key."""

import datetime as dt
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.keys import KeyTerms
from accounts.models import ApiKey
from accounts.origins import BAD_ORIGIN, parse_origins
from chat.llm.catalog import list_offered
from history.models import new_id


class ApiKeyForm(forms.Form):
    """`id` is that of the new key, so that a form that is sent twice makes one."""

    id = forms.UUIDField(widget=forms.HiddenInput)
    name = forms.CharField(
        label=_("Name"), max_length=100, help_text=_("What it is for: you know it again by that in this list.")
    )
    scopes = forms.MultipleChoiceField(
        label=_("It may"), choices=ApiKey.Scope, widget=forms.CheckboxSelectMultiple, initial=[ApiKey.Scope.CHAT]
    )
    days = forms.TypedChoiceField(
        label=_("It works"),
        coerce=int,
        choices=[
            *((90, _("for 90 days")), (30, _("for 30 days")), (365, _("for a year"))),
            (0, pgettext_lazy("an API key", "until I revoke it")),
        ],
    )
    monthly_credits = forms.IntegerField(
        label=_("Credits a month"),
        required=False,
        min_value=1,
        max_value=1_000_000_000,
        help_text=_("At most, in a calendar month. Empty: as many as your plan has."),
    )
    keep_conversations = forms.BooleanField(
        label=_("Keep conversations in my history"),
        required=False,
        help_text=_(
            "What it asks over /v1 appears among your conversations; else nothing of it is kept but what it used. Of a "
            "key in a web page, that is what its visitors write."
        ),
    )
    origins = forms.CharField(
        label=_("Web pages that use it"),
        required=False,
        max_length=2_000,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "https://app.example.com", "spellcheck": "false"}),
        help_text=_(
            "Only for a key that a page uses in its visitors’ browsers: the addresses it may come from, one in a line. "
            "Whoever opens such a page can read the key."
        ),
    )
    models = forms.MultipleChoiceField(
        label=_("Its models"), required=False, widget=forms.CheckboxSelectMultiple, choices=[]
    )

    def __init__(self, data: Any = None) -> None:
        super().__init__(data, initial={"id": new_id()})
        models = self.fields["models"]
        assert isinstance(models, forms.MultipleChoiceField)
        models.choices = [(candidate.model.key, candidate.model.label) for candidate in list_offered()]

    def clean_origins(self) -> tuple[str, ...]:
        try:
            return parse_origins(self.cleaned_data["origins"].split())
        except ValueError as error:
            raise forms.ValidationError(BAD_ORIGIN) from error

    def terms(self) -> KeyTerms:
        """Return what was chosen, of a valid form."""
        chosen = self.cleaned_data
        return KeyTerms(
            name=chosen["name"],
            scopes=tuple(chosen["scopes"]),
            model_ids=tuple(chosen["models"]),
            monthly_credits=chosen["monthly_credits"],
            origins=chosen["origins"],
            keeps_conversations=chosen["keep_conversations"],
            expires_at=timezone.now() + dt.timedelta(days=chosen["days"]) if chosen["days"] else None,
        )
