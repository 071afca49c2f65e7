from django.urls import include, path

from accounts import views

urlpatterns = [
    path("accounts/email/", views.change_email, name="account_email"),
    path("accounts/confirm-email/<str:key>/", views.confirm_email, name="account_confirm_email"),
    path("accounts/", include("allauth.account.urls")),
    path("settings/", views.profile, name="profile"),
    path("settings/log-out-everywhere/", views.log_out_everywhere, name="log_out_everywhere"),
    path("settings/close/", views.close_account, name="close_account"),
    path("settings/close/keep/", views.keep, name="keep_account"),
    path("language/", views.set_language, name="set_language"),
    path("theme/", views.set_theme, name="set_theme"),
]
