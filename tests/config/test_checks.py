"""`manage.py check --deploy` refuses what would let strangers in."""

from collections.abc import Callable

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from history import embeddings

GOOD = "another-one-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def found(settings, db) -> Callable[[], list[str]]:
    settings.ALLOWED_HOSTS = ["chat.example.com"]
    settings.JWT_SECRET_KEY = GOOD

    def check() -> list[str]:
        messages: list[CheckMessage] = run_checks(include_deployment_checks=True)
        return [message.id for message in messages if message.id.startswith("tertulia.E")]

    return check


def test_good_settings_are_not_refused(found):
    assert found() == []


def test_any_name_for_the_site_is_refused(found, settings):
    settings.ALLOWED_HOSTS = ["chat.example.com", "*"]
    assert found() == ["tertulia.E001"]
    with pytest.raises(SystemCheckError):
        call_command("check", deploy=True)


@pytest.mark.parametrize("key", ["the same", "short"])
def test_a_key_for_tokens_that_is_missing_the_same_or_short_is_refused(found, settings, key: str):
    settings.JWT_SECRET_KEY = settings.SECRET_KEY if key == "the same" else GOOD[:49]
    assert found() == ["tertulia.E002"]


def test_search_by_meaning_without_its_package_or_processor_is_refused(found, settings, monkeypatch):
    monkeypatch.setattr(embeddings, "is_installed", lambda: False)
    assert found() == []
    settings.SEARCH_BY_MEANING = True
    assert found() == ["tertulia.E003"]
    monkeypatch.setattr(embeddings, "is_installed", lambda: True)
    monkeypatch.setattr(embeddings, "is_supported", lambda: False)
    assert found() == ["tertulia.E004"]
    assert not embeddings.is_on()
    with pytest.raises(SystemCheckError):
        call_command("check")


def test_half_a_provider_of_accounts_and_one_that_anybody_can_play_are_refused(found, settings):
    settings.GOOGLE_CLIENT_ID = "id"
    assert found() == ["tertulia.E005"]
    settings.GOOGLE_CLIENT_SECRET = "secret"
    settings.OPENID_CLIENT_ID = settings.OPENID_CLIENT_SECRET = "both"
    assert found() == ["tertulia.E005"]
    settings.OPENID_SERVER_URL = "http://id.example.com"
    assert found() == ["tertulia.E006"]
    settings.OPENID_SERVER_URL = "https://id.example.com"
    assert found() == []
