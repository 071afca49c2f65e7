"""What operators are told, and how often."""

import time

import pytest
from django.core import mail
from django.utils import translation
from pytest_django import Settings
from redis.exceptions import ConnectionError as Away

from chat.llm.spending import AT_LIMIT
from core import alerts
from core.alerts import Alert, alert, list_alerts
from core.redis_clients import sync_redis


@pytest.fixture(autouse=True)
def mails_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OPERATOR_EMAIL = ["olga@example.com"]
    monkeypatch.setattr(alerts.send_mail, "delay", alerts.send_mail)
    mail.outbox.clear()


def told() -> list[Alert]:
    alerts._thread.submit(lambda: None).result()  # after whatever was before it
    return list_alerts()


def test_it_is_logged_mailed_and_kept(caplog: pytest.LogCaptureFixture):
    alert("openai:authentication:3fa2", "OpenAI refuses our key.", provider="openai", key="3fa2")
    [found] = told()
    assert (found.subject, found.sentence, found.times) == ("openai:authentication:3fa2", "OpenAI refuses our key.", 1)
    assert found.fields == {"provider": "openai", "key": "3fa2"}
    [record] = [record for record in caplog.records if record.name == "core.alerts"]
    assert (record.levelname, record.subject, record.provider) == ("ERROR", "openai:authentication:3fa2", "openai")
    [message] = mail.outbox
    assert message.to == ["olga@example.com"]
    assert message.subject == "[Tertulia] OpenAI refuses our key."
    assert "provider: openai" in message.body


def test_a_subject_is_mailed_once_an_hour_and_counted():
    for _ in range(3):
        alert("one", "Something.")
    time.sleep(0.002)
    alert("two", "Something else.")
    assert [(found.subject, found.times) for found in told()] == [("two", 1), ("one", 3)]
    assert len(mail.outbox) == 2
    assert 3500 < sync_redis().ttl("alert:one") <= 3600
    sync_redis().delete("alert:one")
    alert("one", "Something.")
    told()
    assert len(mail.outbox) == 3


def test_without_an_address_it_is_kept_all_the_same(settings: Settings):
    settings.OPERATOR_EMAIL = []
    alert("one", "Something.")
    assert len(told()) == 1
    assert mail.outbox == []


def test_each_operator_reads_it_in_their_language_and_the_mail_is_in_the_sites():
    with translation.override("pt-br"):  # of whoever caused it
        alert("one", AT_LIMIT, provider="OpenAI", spent="20.01", limit="20.00", percent=100)
        time.sleep(0.002)
        alert("two", "100 % of it.")
    [_two, found] = told()
    with translation.override("en"):
        assert found.sentence.startswith("OpenAI: today's limit is reached, $20.01 of $20.00.")
    with translation.override("es"):
        in_spanish = found.sentence
    assert in_spanish != found.message % found.fields
    assert mail.outbox[0].body.startswith(in_spanish)
    assert mail.outbox[1].subject == "[Tertulia] 100 % of it."


def test_the_oldest_give_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alerts, "MAX_ALERTS", 3)
    for number in range(5):
        alert(str(number), "Something.")
        time.sleep(0.002)
    assert [found.subject for found in told()] == ["4", "3", "2"]


def test_a_store_or_mail_server_that_is_away_stops_nobody(monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_options: object) -> None:
        raise Away

    with monkeypatch.context() as patch:
        patch.setattr(alerts, "sync_redis", fail)
        alert("one", "Something.")
        alerts._thread.submit(lambda: None).result()
    monkeypatch.setattr(alerts.send_mail, "delay", fail)
    alert("two", "Something.")
    assert [found.subject for found in told()] == ["two"]
