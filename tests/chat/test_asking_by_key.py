"""What a question costs and may read that is asked with an API key."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from rest_framework.test import APIClient

from accounts.keys import KeyTerms, make_key
from accounts.models import ApiKey, User
from billing import metering
from billing.models import PartMonth, Plan, Reservation
from chat.errors import KeyUsedUp, ModelNotInKey
from chat.models import LanguageModel
from chat.turns.closing import close_turn
from chat.turns.opening import open_turn
from core.errors import NotFound
from history.models import Turn, new_id
from history.progress import Outcome
from tests.chat.asking import ask, question, reservation_of

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]


def key_of(user: User, *scopes: str, **terms: Any) -> tuple[ApiKey, str]:
    return make_key(user, KeyTerms(name="Nightly", scopes=scopes or ("chat",), **terms), peer="", key_id=uuid4())


def program(secret: str) -> APIClient:
    return APIClient(headers={"authorization": f"Bearer {secret}"})


def finish(turn: Turn, **usage: int) -> Turn:
    close_turn(turn, Outcome("completed", answer="Hola.", **usage))
    return turn


def statuses(client: APIClient, turn: Turn) -> list[int]:
    paths = (("get", f"turns/{turn.pk}"), ("get", f"turns/{turn.pk}/events"), ("post", f"turns/{turn.pk}/stop"))
    return [
        getattr(client, method)(f"/api/v1/{path}", headers={"Last-Event-ID": "over"}).status_code
        for method, path in paths
    ]


def test_a_question_is_counted_in_the_month_of_its_key(carla: User):
    key, _ = key_of(carla)
    turn = ask(carla, key=key)
    month = PartMonth.objects.get()
    assert (month.label, month.reserved_micros) == (str(key.pk), reservation_of(turn).amount_micros)
    ask(carla)
    assert PartMonth.objects.get().reserved_micros == reservation_of(turn).amount_micros


def test_a_key_that_used_up_its_month_is_refused_by_its_name(carla: User):
    LanguageModel.objects.filter(key="scripted").update(output_price=20_000_000)
    key, secret = key_of(carla, monthly_credits=1)
    with pytest.raises(KeyUsedUp):
        open_turn(carla.pk, question(key=key))
    answer = program(secret).post(
        f"/api/v1/conversations/{new_id()}/turns", {"text": "say:hola", "model": "scripted"}, format="json"
    )
    assert (answer.status_code, answer.json()["code"]) == (402, "allowance_used_up")
    assert "Nightly" in answer.json()["detail"]
    assert answer.json()["retry_after"] > 0
    assert not Reservation.objects.exists()
    assert not Turn.objects.exists()
    ask(carla)  # its owner goes on


def test_auto_chooses_cheaper_for_what_a_key_has_left(carla: User):
    LanguageModel.objects.filter(key="scripted").update(tier="strong", output_price=50_000_000)
    cheap = LanguageModel.objects.get(key="scripted")
    cheap.pk, cheap.key, cheap.tier, cheap.output_price, cheap.label = None, "small", "cheap", 10_000, "Small"
    cheap.provider_model = "small"
    cheap.save()
    asked = "Demuestra paso a paso que hay infinitos números primos, y analiza la demostración."
    key, _ = key_of(carla, monthly_credits=5, model_ids=("scripted", "small"))
    turn = ask(carla, asked, model="auto", key=key)
    assert turn.candidates.split()[0] == "small"
    assert PartMonth.objects.get().reserved_micros <= 5_000


def test_a_key_asks_its_models_alone(carla: User):
    other = LanguageModel.objects.get(key="scripted")
    other.pk, other.key, other.provider_model, other.label = None, "other", "other", "Other"
    other.save()
    key, secret = key_of(carla, model_ids=("other",))
    with pytest.raises(ModelNotInKey):
        ask(carla, model="scripted", key=key)
    with pytest.raises(ModelNotInKey):
        ask(carla, model="recorded", key=key)
    assert ask(carla, model="other", key=key).candidates == "other"
    assert ask(carla, model="auto", key=key).candidates == "other"
    assert ask(carla, model="", key=key).candidates == "other"
    found = program(secret).get("/api/v1/models").json()["results"]
    assert [model["id"] for model in found] == ["auto", "other"]


def test_a_key_without_history_sees_what_was_asked_with_it(carla: User):
    key, secret = key_of(carla)
    _other, other_secret = key_of(carla)
    _reader, reader_secret = key_of(carla, "history")
    own, foreign = finish(ask(carla, key=key)), finish(ask(carla))
    assert statuses(program(secret), own) == [200, 204, 202]
    assert statuses(program(secret), foreign) == [404, 404, 404]
    assert statuses(program(other_secret), own) == [404, 404, 404]
    assert statuses(program(reader_secret), foreign) == [200, 204, 403]


def test_a_key_without_history_goes_on_from_nothing_else(carla: User):
    for plan in Plan.objects.all():
        plan.has_comparison = True
        plan.save()
    key, secret = key_of(carla)
    reader, _ = key_of(carla, "chat", "history")
    own, foreign = finish(ask(carla, key=key)), finish(ask(carla))
    assert ask(carla, key=key, conversation_id=own.conversation_id).parent_id == own.pk
    with pytest.raises(NotFound):
        ask(carla, key=key, conversation_id=foreign.conversation_id)
    with pytest.raises(NotFound):
        ask(carla, key=key, conversation_id=foreign.conversation_id, parent_id=foreign.pk)
    with pytest.raises(NotFound):
        ask(carla, key=key, conversation_id=foreign.conversation_id, beside_id=foreign.pk)
    again = {"text": "say:hola", "turn_id": str(foreign.pk)}
    address = f"/api/v1/conversations/{foreign.conversation_id}/turns"
    assert program(secret).post(address, again, format="json").status_code == 404
    assert ask(carla, key=reader, conversation_id=foreign.conversation_id).parent_id == foreign.pk


def test_what_a_key_asked_is_known_after_it_is_revoked(carla: User):
    key, _ = key_of(carla)
    turn = finish(ask(carla, key=key))
    ApiKey.objects.update(revoked_at=turn.created_at)
    assert UUID(metering.find_part(turn.pk)) == key.pk


def test_what_a_key_used_this_month_is_told(carla: User):
    key, _ = key_of(carla)
    turn = ask(carla, key=key)
    close_turn(turn, Outcome("completed", answer="Hola.", output_tokens=5, usage_source="provider", cost_micros=700))
    member = APIClient()
    member.force_authenticate(carla)
    [shown] = member.get("/api/v1/keys").json()["results"]
    assert shown["used"] == 0.7
    assert member.get(f"/api/v1/keys/{key.pk}").json() == shown
