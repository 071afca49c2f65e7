"""`manage.py smoke`, on what the tests have."""

import pytest
from django.core import mail
from django.core.management import CommandError, call_command

from history.models import Conversation, Turn

pytestmark = pytest.mark.stores


@pytest.fixture(autouse=True)
def scripted_question(monkeypatch):
    monkeypatch.setattr("config.management.commands.smoke.QUESTION", "say:hola")


def test_it_asks_writes_and_sends(catalog, capsys):
    call_command("smoke", mail="olga@example.com")
    said = capsys.readouterr().out
    assert said.count(": works") == 3
    assert "'hola'" in said
    assert mail.outbox[0].to == ["olga@example.com"]
    assert Turn.objects.count() == Conversation.objects.count() == 0


def test_what_fails_is_named_and_the_rest_is_tried(catalog, capsys, monkeypatch):

    def fail(*_args, **_kwargs):
        raise OSError("no such host")

    monkeypatch.setattr("django.core.mail.EmailMessage.send", fail)
    with pytest.raises(CommandError, match="1 did not work"):
        call_command("smoke", mail="olga@example.com")
    said = capsys.readouterr().out
    assert "Mail to olga@example.com: FAILED, OSError: no such host" in said
    assert said.count(": works") == 2
