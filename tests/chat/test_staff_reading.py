"""The staff reads nothing of what people write, unless it opens a conversation: with a reason, for half an hour, and
its owner knows. And what each role of the staff may."""

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts.api.views import tokens_for
from accounts.keys import KeyTerms, make_key
from accounts.models import ApiKey, User
from chat.models import StaffReading
from chat.turns.closing import close_turn
from config.roles import load_roles
from history import trash
from history.models import Conversation, new_id
from history.progress import Outcome
from tests.accounts.doors import ask_again
from tests.chat.asking import ask

pytestmark = pytest.mark.usefixtures("catalog")

ADD = "/admin/chat/staffreading/add/"
REASON = "Pide ayuda con una respuesta cortada."


def staff(role: str, email: str = "") -> User:
    load_roles()
    user = User.objects.create_user(email or f"{role}@example.com", "una clave larga", is_staff=True, locale="en")
    user.groups.add(Group.objects.get(name=role))
    return user


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return ask_again(client, user)


@pytest.fixture
def secret_talk(carla: User) -> Conversation:
    turn = ask(carla, "say:<script>alert(1)</script> secreto")
    close_turn(turn, Outcome("completed", answer="Una respuesta secreta."))
    return Conversation.objects.get()


def open_it(client: Client, conversation: Any, reason: str = REASON) -> Any:
    return client.post(ADD, {"conversation_id": str(conversation), "reason": reason})


def test_support_reads_for_a_reason_and_the_owner_knows(secret_talk: Conversation, carla: User):
    support = browser_of(staff("support"))
    answer = open_it(support, secret_talk.pk)
    [reading] = StaffReading.objects.all()
    assert answer["Location"] == f"/admin/chat/staffreading/{reading.pk}/read/"
    assert (reading.user, reading.staff_email, reading.reason) == (carla, "support@example.com", REASON)
    assert dt.timedelta(minutes=29) < reading.expires_at - timezone.now() <= dt.timedelta(minutes=30)
    page = support.get(answer["Location"]).content.decode()
    assert "Una respuesta secreta." in page
    assert "<script>alert(1)" not in page
    [letter] = mail.outbox
    assert letter.to == [carla.email]
    assert REASON in letter.body
    assert "secreta" not in letter.body
    assert REASON in browser_of(carla).get("/settings/history/").content.decode()
    assert REASON in support.get("/admin/chat/staffreading/").content.decode()


@pytest.mark.parametrize("where", ["user/{}/delete/", "user/"])
def test_who_was_read_can_be_deleted(secret_talk: Conversation, carla: User, olga: User, where: str):
    open_it(browser_of(staff("support")), secret_talk.pk)
    form = {"action": "delete_selected", "_selected_action": carla.pk, "post": "yes"}
    assert browser_of(olga).post(f"/admin/accounts/{where.format(carla.pk)}", form).status_code == 302
    assert not User.objects.filter(pk=carla.pk).exists()
    assert not StaffReading.objects.exists()


def test_it_ends(secret_talk: Conversation):
    support = browser_of(staff("support"))
    page = open_it(support, secret_talk.pk)["Location"]
    StaffReading.objects.update(expires_at=timezone.now())
    assert support.get(page).status_code == 404


def test_it_is_for_who_opened_it(secret_talk: Conversation, carla: User, olga: User):
    page = open_it(browser_of(staff("support")), secret_talk.pk)["Location"]
    assert browser_of(staff("support", "other@example.com")).get(page).status_code == 404
    assert browser_of(olga).get(page).status_code == 404
    assert browser_of(staff("billing")).get(page).status_code == 403
    assert browser_of(carla).get(page).status_code == 302
    assert Client().get(page).status_code == 302


def test_who_lost_the_right_reads_no_more(secret_talk: Conversation):
    user = staff("support")
    client = browser_of(user)
    page = open_it(client, secret_talk.pk)["Location"]
    user.groups.clear()
    assert client.get(page).status_code == 403


@pytest.mark.parametrize("reason", ["", "x", "   "])
def test_without_a_reason_nothing_opens(secret_talk: Conversation, reason: str):
    assert open_it(browser_of(staff("support")), secret_talk.pk, reason).status_code == 200
    assert not StaffReading.objects.exists()
    assert not mail.outbox


def test_what_is_not_there_cannot_be_opened(secret_talk: Conversation, carla: User):
    support = browser_of(staff("support"))
    assert open_it(support, new_id()).status_code == 200
    assert open_it(support, "x").status_code == 200
    page = open_it(support, secret_talk.pk)["Location"]
    trash.trash_conversations(carla.pk, [secret_talk.pk])
    assert open_it(support, secret_talk.pk).status_code == 200
    assert support.get(page).status_code == 404
    assert StaffReading.objects.count() == 1


def test_nobody_else_opens_anything(secret_talk: Conversation, carla: User):
    assert open_it(browser_of(staff("billing")), secret_talk.pk).status_code == 403
    assert open_it(browser_of(carla), secret_talk.pk).status_code == 302
    assert not StaffReading.objects.exists()


def test_a_reading_is_neither_changed_nor_removed(secret_talk: Conversation, olga: User):
    client = browser_of(olga)
    open_it(client, secret_talk.pk)
    [reading] = StaffReading.objects.all()
    for act in ("change", "delete"):
        client.post(f"/admin/chat/staffreading/{reading.pk}/{act}/", {"post": "yes", "reason": "another reason"})
    assert StaffReading.objects.get().reason == REASON


# --- Roles ------------------------------------------------------------------------------------------------------------


def test_roles_are_there_and_stay_as_an_operator_made_them():
    load_roles()
    support = Group.objects.get(name="support")
    assert support.permissions.filter(codename="suspend_user").exists()
    support.permissions.clear()
    load_roles()
    assert not support.permissions.exists()
    assert set(Group.objects.values_list("name", flat=True)) == {"support", "billing", "operator"}


def test_support_changes_no_address_and_no_password(ana: User):
    client = browser_of(staff("support"))
    page = f"/admin/accounts/user/{ana.pk}/change/"
    assert client.get(page).status_code == 200
    assert client.post(page, {"email": "mine@example.com"}).status_code == 403
    assert client.post(f"/admin/accounts/user/{ana.pk}/password/", {"password1": "x" * 12}).status_code == 403
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"


@pytest.mark.parametrize("role", ["support", "billing", "operator"])
def test_no_role_gives_rights(role: str, ana: User):
    client = browser_of(staff(role))
    client.post(f"/admin/accounts/user/{ana.pk}/change/", {"is_superuser": "on", "is_staff": "on", "email": ana.email})
    group = Group.objects.get(name=role)
    assert client.get(f"/admin/auth/group/{group.pk}/change/").status_code == 403
    ana.refresh_from_db()
    assert not ana.is_superuser
    assert not ana.is_staff


def test_support_suspends_at_once_and_lets_back(ana: User, olga: User):
    tokens = tokens_for(ana)
    make_key(ana, KeyTerms(name="x", scopes=("chat",)), peer="", key_id=uuid4())
    client = browser_of(staff("support"))
    chosen = {"_selected_action": [ana.pk, olga.pk]}
    client.post("/admin/accounts/user/", {"action": "suspend", **chosen})
    ana.refresh_from_db()
    olga.refresh_from_db()
    assert (ana.is_active, olga.is_active) == (False, True)
    assert ApiKey.objects.get().revoked_at is not None
    assert Client().get("/api/v1/me", headers={"authorization": f"Bearer {tokens['access']}"}).status_code == 401
    client.post("/admin/accounts/user/", {"action": "let_back", **chosen})
    ana.refresh_from_db()
    assert ana.is_active


def test_billing_suspends_nobody(ana: User):
    client = browser_of(staff("billing"))
    client.post("/admin/accounts/user/", {"action": "suspend", "_selected_action": [ana.pk]})
    ana.refresh_from_db()
    assert ana.is_active


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        ("support", "/admin/billing/payment/", 200),
        ("support", "/admin/billing/price/", 403),
        ("support", "/admin/billing/plan/add/", 403),
        ("billing", "/admin/billing/price/", 200),
        ("billing", "/admin/history/turn/", 403),
        ("billing", "/admin/chat/staffreading/", 403),
        ("operator", "/admin/chat/languagemodel/", 200),
        ("operator", "/admin/billing/price/", 200),
    ],
)
def test_a_role_opens_its_pages(role: str, path: str, status: int):
    assert browser_of(staff(role)).get(path).status_code == status
