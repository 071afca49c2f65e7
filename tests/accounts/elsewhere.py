"""A browser that logs in with an account elsewhere, at a stand-in."""

from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter
from allauth.socialaccount.providers.google.views import GoogleOAuth2Adapter
from django.test import Client
from pytest_django import Settings

from config.settings import social_app
from tests.fakes.identity import CLIENT_ID, CLIENT_SECRET, IdentityProvider

KINDS = ("google", "github", "microsoft", "openid_connect")
IDS = ("google", "github", "microsoft", "openid")


def switch_on(settings: Settings, monkeypatch: pytest.MonkeyPatch, there: IdentityProvider) -> None:
    """Switch all four on, and have their addresses be the stand-in's."""
    settings.SOCIALACCOUNT_PROVIDERS = {
        "google": social_app("Google", CLIENT_ID, CLIENT_SECRET),
        "github": social_app("GitHub", CLIENT_ID, CLIENT_SECRET),
        "microsoft": social_app(
            "Microsoft", CLIENT_ID, CLIENT_SECRET, tenant="common", login_url=there.url, graph_url=there.url
        ),
        "openid_connect": social_app("Our House", CLIENT_ID, CLIENT_SECRET, "openid", server_url=there.url),
    }
    monkeypatch.setattr(GoogleOAuth2Adapter, "authorize_url", f"{there.url}/google/authorize")
    monkeypatch.setattr(GoogleOAuth2Adapter, "access_token_url", f"{there.url}/google/token")
    for name, path in (("authorize_url", "/authorize"), ("access_token_url", "/access_token")):
        monkeypatch.setattr(GitHubOAuth2Adapter, name, f"{there.url}/login/oauth{path}")
    monkeypatch.setattr(GitHubOAuth2Adapter, "profile_url", f"{there.url}/api/v3/user")
    monkeypatch.setattr(GitHubOAuth2Adapter, "emails_url", f"{there.url}/api/v3/user/emails")


def go_there(browser: Client, provider: str, **fields: str) -> str:
    """Press the button; return the address that the provider sends back to."""
    page: Any = browser.post(f"/accounts/with/{provider}/", fields)
    assert page.status_code == 200, page
    answer = requests.get(page.context["url"], allow_redirects=False, timeout=5)
    found = urlsplit(answer.headers["Location"])
    return f"{found.path}?{found.query}"


def come_back(browser: Client, provider: str, **fields: str) -> Any:
    """Go there, and come back."""
    return browser.get(go_there(browser, provider, **fields))


def sign_up_with(browser: Client, provider: str, **fields: str) -> Any:
    """Sign up, by the form that follows."""
    answer = come_back(browser, provider)
    assert answer["Location"] == "/accounts/with/sign-up/", answer
    return browser.post("/accounts/with/sign-up/", {"terms": "on", **fields})
