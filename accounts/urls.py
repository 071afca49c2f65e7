from allauth.account import views as allauth_views
from allauth.account.decorators import reauthentication_required
from allauth.mfa.base import views as mfa_views
from allauth.mfa.webauthn import views as passkey_views
from django.urls import include, path
from django.views.generic import RedirectView

from accounts import social_views, views

urlpatterns = [
    path("accounts/email/", views.change_email, name="account_email"),
    path("accounts/confirm-email/<str:key>/", views.confirm_email, name="account_confirm_email"),
    path("accounts/2fa/", views.second_factor_page, name="mfa_index"),
    path("accounts/2fa/authenticate/", views.ask_for_second_factor, name="mfa_authenticate"),
    path("accounts/2fa/reauthenticate/", mfa_views.reauthenticate, name="mfa_reauthenticate"),
    path("accounts/2fa/totp/", include("allauth.mfa.totp.urls")),
    path("accounts/2fa/recovery-codes/", include("allauth.mfa.recovery_codes.urls")),
    path("accounts/2fa/webauthn/", RedirectView.as_view(pattern_name="mfa_index"), name="mfa_list_webauthn"),
    path("accounts/2fa/webauthn/add/", views.add_passkey, name="mfa_add_webauthn"),
    path("accounts/2fa/webauthn/login/", views.log_in_by_passkey, name="mfa_login_webauthn"),
    path(
        "accounts/2fa/webauthn/reauthenticate/",
        passkey_views.reauthenticate_webauthn,
        name="mfa_reauthenticate_webauthn",
    ),
    path("accounts/2fa/webauthn/keys/<int:pk>/remove/", views.remove_passkey, name="mfa_remove_webauthn"),
    path("accounts/confirm-otherwise/", social_views.confirm_otherwise, name="confirm_otherwise"),
    # Who has no password: whoever has their session must not give them one.
    path(
        "accounts/password/set/",
        reauthentication_required(allauth_views.password_set),
        name="account_set_password",
    ),
    path("accounts/with/sign-up/", social_views.social_sign_up, name="socialaccount_signup"),
    path("accounts/with/<str:provider_id>/", social_views.social_log_in, name="social_log_in"),
    # Where providers send people back to, as allauth has these addresses: operators have typed them there.
    *(
        path(
            f"accounts/{provider}/login/callback/",
            social_views.social_callback,
            {"provider_id": provider},
            name=f"{provider}_callback",
        )
        for provider in ("github", "google", "microsoft")
    ),
    path(
        "accounts/oidc/<str:provider_id>/login/callback/", social_views.social_callback, name="openid_connect_callback"
    ),
    path("settings/connections/", social_views.connections_page, name="socialaccount_connections"),
    path("settings/connections/<int:account_id>/remove/", social_views.disconnect_account, name="disconnect_account"),
    path("accounts/", include("allauth.account.urls")),
    path("settings/", views.profile, name="profile"),
    path("settings/devices/", views.devices_page, name="devices"),
    path("settings/devices/sessions/<str:session_id>/end/", views.end_session, name="end_session"),
    path("settings/devices/programs/<uuid:family_id>/end/", views.end_program, name="end_program"),
    path("settings/log-out-everywhere/", views.log_out_everywhere, name="log_out_everywhere"),
    path("settings/close/", views.close_account, name="close_account"),
    path("settings/close/keep/", views.keep, name="keep_account"),
    path("language/", views.set_language, name="set_language"),
    path("theme/", views.set_theme, name="set_theme"),
]
