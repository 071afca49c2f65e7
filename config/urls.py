from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from config import health, mail, pages, probed
from config.openapi import documents

handler400 = "config.pages.bad_request"
handler403 = "config.pages.forbidden"
handler404 = "config.pages.not_found"
handler429 = "config.pages.too_many"
handler500 = "config.pages.server_error"


urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("probed/<str:word>/", probed.probed, name="probed"),
    path("api/v1/", include("config.api")),
    path("api/schema/", documents.schema, name="api_schema"),
    path("api/docs/", documents.docs, name="api_docs"),
    path("v1/", include("chat.api.openai.urls")),
    path("robots.txt", pages.robots),
    path("terms/", pages.terms, name="terms"),
    path("status/", pages.status, name="status"),
    path("diagram/", pages.diagram, name="diagram"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),
    path("", include("billing.pages.urls")),
    path("", include("history.urls")),
    path("", include("chat.urls")),
    # One page of one's own password, as there is one log-in (config/admin.py).
    path("admin/password_change/", RedirectView.as_view(pattern_name="account_change_password")),
    path("admin/", admin.site.urls),
]
if settings.DEBUG and not settings.HAS_MAIL_SERVER:
    urlpatterns.append(path("mail/", mail.caught, name="mail"))
