"""The pages of API keys, under the settings: the list, the form of a new one, and how one is revoked."""

from dataclasses import dataclass
from uuid import UUID

from allauth.account.decorators import reauthentication_required
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts.http import member_of, peer_of
from accounts.keys import access_key, list_keys, make_key, revoke_key
from accounts.models import ApiKey
from billing.entitlements import check_api, credits_of, entitlements_of
from billing.metering import used_by_parts
from chat.pages.key_forms import ApiKeyForm
from core.errors import Conflict, DomainError


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key as its row shows it: `used` are its credits of this month, `scopes` what people call them."""

    key: ApiKey
    scopes: list[str]
    used: float


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@reauthentication_required(allow_get=True)  # type: ignore[untyped-decorator]  # allauth's
def keys_page(request: HttpRequest) -> HttpResponse:
    """List a member's keys, and make one, which this answer shows once."""
    form = ApiKeyForm(request.POST if request.method == "POST" else None)
    if request.method != "POST":
        return _page(request, form)
    if not form.is_valid():
        return _page(request, form, status=422)
    member = member_of(request)
    try:
        check_api(member.pk)
        key, secret = make_key(member, form.terms(), peer=peer_of(request), key_id=form.cleaned_data["id"])
    except Conflict:  # the form was sent twice; the key was shown, and is not kept
        messages.warning(request, _("That key has been made already, and was shown once. If you lost it, revoke it."))
        return redirect("keys")
    except DomainError as error:
        form.add_error(None, str(error.message))
        return _page(request, form, status=error.status)
    return _page(request, ApiKeyForm(), status=201, made=key, secret=secret)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke_key_page(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask, and revoke a key."""
    key = access_key(member_of(request).pk, key_id)
    if request.method != "POST":
        return render(request, "chat/revoke_key.html", {"key": key})
    revoke_key(key, peer=peer_of(request))
    messages.success(request, _("The key is revoked: nothing can be done with it any more."))
    return redirect("keys")


def _page(
    request: HttpRequest, form: ApiKeyForm, *, status: int = 200, made: ApiKey | None = None, secret: str = ""
) -> HttpResponse:
    member = member_of(request)
    used_micros = used_by_parts(member.pk)
    labels = dict(ApiKey.Scope.choices)
    keys = [
        ShownKey(key, [str(labels[scope]) for scope in key.scopes], credits_of(used_micros.get(str(key.pk), 0)))
        for key in list_keys(member.pk)
    ]
    context = {
        "form": form,
        "keys": keys,
        "made": made,
        "secret": secret,
        "has_api": entitlements_of(member.pk).has_api,
    }
    return render(request, "chat/keys.html", context, status=status)
