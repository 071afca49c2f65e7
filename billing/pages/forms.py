"""What people fill in on the pages of billing."""

import datetime as dt
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.models import Payment


class CheckoutForm(forms.Form):
    """How to pay: `way` is one of the `ways`, by its key. Some of them (`ways_with_email`) want to know the payer."""

    way = forms.ChoiceField(widget=forms.RadioSelect, label=_("How do you want to pay?"))
    payer_email = forms.EmailField(
        help_text=_("That of your account there: the subscription can be paid from no other one."),
        required=False,
    )
    coupon = forms.CharField(label=_("Discount code"), max_length=40, required=False)
    nonce = forms.CharField(max_length=40, widget=forms.HiddenInput)

    def __init__(self, *args: Any, ways: list[str], ways_with_email: list[str], asked_by: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ways_with_email = ways_with_email
        self.fields["payer_email"].label = gettext("Your e-mail address at %(gateway)s") % {"gateway": asked_by}
        way = self.fields["way"]
        assert isinstance(way, forms.ChoiceField)
        way.choices = [(key, key) for key in ways]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("way") not in self.ways_with_email:
            cleaned["payer_email"] = ""
        elif not cleaned.get("payer_email") and "payer_email" not in self.errors:
            self.add_error("payer_email", _("Write the address of your account there."))
        return cleaned


class RefundForm(forms.Form):
    reason = forms.CharField(
        label=_("What went wrong?"),
        max_length=Payment._meta.get_field("refund_reason").max_length,
        widget=forms.Textarea(attrs={"rows": 4}),
    )


class MonthForm(forms.Form):
    """A month that can be chosen: `months` are their first days."""

    month = forms.ChoiceField(label=_("Month"))

    def __init__(self, *args: Any, months: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        month = self.fields["month"]
        assert isinstance(month, forms.ChoiceField)
        month.choices = months

    def chosen(self) -> dt.date | None:
        """Return the month's first day; None for none, or one there is not."""
        return dt.date.fromisoformat(f"{self.cleaned_data['month']}-01") if self.is_valid() else None
