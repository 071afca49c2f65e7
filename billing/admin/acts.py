"""What an operator does to a row: a page that says what it is about, asks why, and does it once.

The form carries a key, which is that of the row the act leaves: whoever sends it twice has done it once. Nothing here
runs in a transaction, since an act may ask a gateway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from accounts.models import User
from billing.errors import GatewayDeclined, GatewaySilent, UnknownPrice, WrongAccount
from billing.gateways.base import GatewayRefused, GatewayUnavailable
from billing.models import StaffAct
from core.errors import DomainError

DONE = _("Done.")
LATER = _("Written down. The payment service does not answer, or refuses: see “tasks at gateways”.")


class ActForm(forms.Form):
    """Why, and the form's key. `row` is what the act is about."""

    key = forms.CharField(max_length=40, widget=forms.HiddenInput)
    reason = forms.CharField(
        label=_("Why"), max_length=200, widget=forms.Textarea(attrs={"rows": 3}), help_text=_("It is kept for good.")
    )

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row = row
        self.fields["key"].initial = uuid4().hex

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the operator should know before."""
        return []


Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """`do` gets the row, the operator and what the form has, and returns whether it is done: if not, it will be."""

    name: str
    label: Promise
    do: Callable[[Any, User, Fields], object]
    is_offered: Callable[[Any], bool] = lambda _row: True
    form: type[ActForm] = ActForm
    warning: Promise | str = ""
    later: Any = LATER


class ActsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A table whose rows operators act on, who may change them."""

    acts: ClassVar[tuple[OperatorAct, ...]] = ()
    change_form_template = "admin/billing/change_form.html"

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(require_http_methods(["GET", "POST"])(self.act_view))
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        return [path("<path:object_id>/act/<slug:name>/", page, name=name), *super().get_urls()]

    def may_act(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        offered = [act for act in self.acts if row is not None and self.may_act(request) and act.is_offered(row)]
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "acts": offered})

    def act_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Ask for what the act needs; POST does it."""
        if not self.may_act(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        act = next((act for act in self.acts if act.name == name), None)
        if row is None or act is None:
            raise Http404
        back = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=(row.pk,))
        if request.method == "POST" and StaffAct.objects.filter(key=request.POST.get("key") or None).exists():
            self.message_user(request, _("That was done already."), messages.INFO)
            return redirect(back)
        if not act.is_offered(row):
            self.message_user(request, _("That cannot be done any more."), messages.WARNING)
            return redirect(back)
        form = act.form(request.POST or None, row=row)
        if form.is_valid() and self._do(request, act, row, form):
            return redirect(back)
        page = {
            **self.admin_site.each_context(request),
            "title": act.label,
            "act": act,
            "form": form,
            "row": row,
            "opts": self.opts,
            "back": back,
            "media": self.media + form.media,
        }
        return render(request, "admin/billing/act.html", page, status=422 if form.is_bound else 200)

    def _do(self, request: HttpRequest, act: OperatorAct, row: Any, form: ActForm) -> bool:
        operator: Any = request.user
        try:
            is_done = act.do(row, operator, form.cleaned_data)
        except DomainError as error:
            form.add_error(None, str(error.message))
        except (GatewayUnavailable, KeyError):
            form.add_error(None, str(GatewaySilent.message))
        except GatewayRefused:
            form.add_error(None, str(GatewayDeclined.message))
        except (UnknownPrice, WrongAccount):
            form.add_error(None, _("What the payment service says of this is not believed: see the alerts."))
        else:
            if is_done is False:
                self.message_user(request, act.later, messages.WARNING)
            else:
                self.message_user(request, DONE, messages.SUCCESS)
            return True
        return False
