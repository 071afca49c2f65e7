from allauth.account.decorators import secure_admin_login
from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from config import health, mail, pages

handler400 = "config.pages.bad_request"
handler403 = "config.pages.forbidden"
handler404 = "config.pages.not_found"
handler429 = "config.pages.too_many"
handler500 = "config.pages.server_error"

admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # one log-in, with its limits

urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("api/v1/", include("config.api")),
    path("terms/", pages.terms, name="terms"),
    path("status/", pages.status, name="status"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),
    path("", include("billing.pages.urls")),
    path("", include("history.urls")),
    path("", include("chat.urls")),
    path("admin/", admin.site.urls),
]
if settings.DEBUG and not settings.HAS_MAIL_SERVER:
    urlpatterns.append(path("mail/", mail.caught, name="mail"))
