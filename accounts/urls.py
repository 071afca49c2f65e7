from django.urls import include, path

from accounts import views

urlpatterns = [
    path("accounts/email/", views.change_email, name="account_email"),
    path("accounts/confirm-email/<str:key>/", views.confirm_email, name="account_confirm_email"),
    path("accounts/2fa/", views.second_factor_page, name="mfa_index"),
    path("accounts/2fa/authenticate/", views.ask_for_second_factor, name="mfa_authenticate"),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/", include("allauth.account.urls")),
    path("settings/", views.profile, name="profile"),
    path("settings/devices/", views.devices_page, name="devices"),
    path("settings/devices/sessions/<str:session_id>/end/", views.end_session, name="end_session"),
    path("settings/devices/programs/<uuid:family_id>/end/", views.end_program, name="end_program"),
    path("settings/log-out-everywhere/", views.log_out_everywhere, name="log_out_everywhere"),
    path("language/", views.set_language, name="set_language"),
    path("theme/", views.set_theme, name="set_theme"),
]
