from allauth.account.decorators import secure_admin_login
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import include, path
from django.views.generic import RedirectView

from config import health, mail, pages

handler400 = "config.pages.bad_request"
handler403 = "config.pages.forbidden"
handler404 = "config.pages.not_found"
handler429 = "config.pages.too_many"
handler500 = "config.pages.server_error"


@secure_admin_login  # type: ignore[untyped-decorator]
def admin_log_in(request: HttpRequest) -> HttpResponse:
    """Send an operator, who is logged in already, on. The admin's own form would check passwords without our limits."""
    return redirect("admin:index")


admin.site.login = admin_log_in  # type: ignore[method-assign]  # one log-in

urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("api/v1/", include("config.api")),
    path("terms/", pages.terms, name="terms"),
    path("status/", pages.status, name="status"),
    path("diagram/", pages.diagram, name="diagram"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),
    path("", include("billing.pages.urls")),
    path("", include("history.urls")),
    path("", include("chat.urls")),
    # The same for the admin's page of one's own password.
    path("admin/password_change/", RedirectView.as_view(pattern_name="account_change_password")),
    path("admin/", admin.site.urls),
]
if settings.DEBUG and not settings.HAS_MAIL_SERVER:
    urlpatterns.append(path("mail/", mail.caught, name="mail"))
