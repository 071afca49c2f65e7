"""The page of the settings that says for how long conversations are kept, and what is about to go."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts.forms import KeepHistoryForm
from accounts.http import member_of
from billing import entitlements
from chat.shown.staff_reading import list_readings
from chat.turns.retention import MAX_COUNT, outlook_of


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def keep_history(request: HttpRequest) -> HttpResponse:
    user = member_of(request)
    form = KeepHistoryForm(request.POST or None, instance=user)
    if form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("keep_history")
    if form.is_bound:
        user.refresh_from_db()  # validation has already changed the object, which the page shows
    context = {
        "form": form,
        "outlook": outlook_of(user),
        "plan_days": entitlements.history_days_of(user.pk),
        "trash_days": settings.TRASH_DAYS,
        "max_count": MAX_COUNT,
        "readings": list_readings(user.pk),
    }
    return render(request, "chat/kept.html", context, status=422 if form.is_bound else 200)
