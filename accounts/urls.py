from django.urls import include, path

from accounts import views

urlpatterns = [
    path("accounts/email/", views.change_email, name="account_email"),
    path("accounts/", include("allauth.account.urls")),
    path("settings/", views.profile, name="profile"),
    path("language/", views.set_language, name="set_language"),
    path("theme/", views.set_theme, name="set_theme"),
]
