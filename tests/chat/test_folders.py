"""What a folder gives its conversations: instructions with every question, and the model a new chat begins with."""

from typing import Any

import pytest

from accounts.models import User
from chat.turns import prompts
from chat.turns.claiming import claim_turn
from chat.turns.closing import close_turn
from core.errors import DomainError
from history import folders, order
from history.models import Folder, Turn, new_id
from history.progress import Outcome
from tests.chat.asking import ask, finished, reservation_of

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

RHYME = "Always answer in rhyme."


@pytest.fixture
def folder(ana: User) -> Folder:
    return folders.create_folder(ana.pk, name="Cooking", model="scripted", instructions=RHYME)


def sent(turn: Turn) -> str:
    """What the model is told beside the conversation."""
    claimed = claim_turn(turn)
    assert claimed is not None
    [system] = [message.text for message in claimed.request.messages if message.role == "system"]
    return system


def digest(turn: Turn, settings: Any) -> bytes:
    settings.CACHE_TTL = 60
    claimed = claim_turn(turn)
    assert claimed is not None
    assert claimed.cache_slot is not None
    return claimed.cache_slot.digest


def test_instructions_go_with_every_question_and_are_paid(carla: User):
    folder = folders.create_folder(carla.pk, name="Cooking", instructions=RHYME)
    plain = ask(carla)
    begun = ask(carla, folder_id=folder.pk)
    assert reservation_of(begun).amount_micros > reservation_of(plain).amount_micros
    assert begun.input_tokens > plain.input_tokens
    assert sent(begun) == f"{prompts.INSTRUCTIONS}\n\n{RHYME}"
    assert sent(plain) == prompts.INSTRUCTIONS
    close_turn(begun, Outcome("completed", answer="hola", model="scripted", cost_micros=1))
    assert sent(ask(carla, conversation_id=begun.conversation_id)).endswith(RHYME)


def test_a_change_counts_from_the_next_question(ana: User, folder: Folder):
    waiting = ask(ana, folder_id=folder.pk)
    folders.change_folder(folder, instructions="x" * Folder.MAX_INSTRUCTIONS)
    assert sent(waiting).endswith(RHYME)
    close_turn(waiting, Outcome("stopped"))
    following = ask(ana, conversation_id=waiting.conversation_id)
    assert sent(following).endswith("xxx")
    close_turn(following, Outcome("stopped"))
    folders.delete_folder(folder)
    assert sent(ask(ana, conversation_id=waiting.conversation_id)) == prompts.INSTRUCTIONS


def test_who_moves_a_conversation_gives_it_other_instructions(ana: User, folder: Folder):
    turn = finished(ana)
    order.move(ana.pk, {turn.conversation_id: folder.pk})
    assert sent(ask(ana, conversation_id=turn.conversation_id)).endswith(RHYME)


def test_a_folder_that_is_gone_or_foreign_is_none(ana: User, bo: User):
    foreign = folders.create_folder(bo.pk, name="Ajena", instructions=RHYME)
    for folder_id in (foreign.pk, new_id()):
        turn = ask(ana, folder_id=folder_id)
        assert sent(turn) == prompts.INSTRUCTIONS
        close_turn(turn, Outcome("stopped"))


def test_instructions_take_room_in_the_window(ana: User, folder: Folder):
    folders.change_folder(folder, instructions="x " * 1_999)
    text = "y" * 19_000  # the window of `scripted` holds 8,000 tokens, an answer among them
    close_turn(ask(ana, text), Outcome("stopped"))
    with pytest.raises(DomainError) as refused:
        ask(ana, text, folder_id=folder.pk)
    assert refused.value.code == "context_exceeded"


def test_the_answer_cache_knows_them(carla: User, settings: Any):
    folder = folders.create_folder(carla.pk, name="Cooking", instructions=RHYME)
    first = digest(ask(carla, folder_id=folder.pk), settings)
    assert first == digest(ask(carla, folder_id=folder.pk), settings)
    assert first != digest(ask(carla), settings)


def test_a_new_chat_in_a_folder_begins_with_its_model_and_is_in_it(ana: User, folder: Folder, client: Any):
    client.force_login(ana)
    page = client.get(f"/?folder={folder.pk}").text
    assert f'name="folder" value="{folder.pk}"' in page
    assert '<option value="scripted"' in page
    assert 'data-label="Scripted" selected' in page
    conversation_id = new_id()
    fields = {"text": "say:hola", "model": "scripted", "folder": str(folder.pk)}
    refused = client.post(f"/c/{conversation_id}/", {**fields, "text": " "})
    assert f'name="folder" value="{folder.pk}"' in refused.text  # the next try is in it, too
    client.post(f"/c/{conversation_id}/", fields)
    shown = client.get(f"/folders/{folder.pk}/").text
    assert str(conversation_id) in shown
    for gone in (new_id(), "x"):
        assert 'name="folder"' not in client.get(f"/?folder={gone}").text
