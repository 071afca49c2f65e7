from django.contrib import admin
from django.urls import include, path
from django.views.i18n import set_language

from config import health

handler404 = "config.api.not_found"
urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("api/v1/", include("config.api")),
    path("i18n/setlang/", set_language, name="set_language"),
    path("admin/", admin.site.urls),
]
