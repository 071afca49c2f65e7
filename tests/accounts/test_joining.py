"""Who may sign up: everybody, people of some domains, whoever is invited, nobody. On the page as over the API."""

import datetime as dt
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import joining
from accounts.models import Invitation, User
from core.errors import Conflict
from tests.accounts.doors import PASSWORD, ask_again, links_in

pytestmark = pytest.mark.usefixtures("catalog")

BY = ("page", "api")


def sign_up(by: str, email: str, invitation: str = "", *, peer: str = "192.0.2.1") -> Any:
    """Return the answer to a sign-up."""
    if by == "api":
        fields = {"email": email, "password": PASSWORD, "invitation": invitation}
        return APIClient(REMOTE_ADDR=peer).post("/api/v1/auth/register", fields, format="json")
    form = {"email": email, "password1": PASSWORD, "terms": "on", "invitation": invitation}
    return Client(REMOTE_ADDR=peer).post("/accounts/signup/", form)


def has_joined(email: str) -> bool:
    return User.objects.filter(email=email).exists()


def word_for(email: str, by: User) -> str:
    joining.invite(email, by=by, language="en")
    link = re.search(r"http\S+", str(mail.outbox[-1].body))
    assert link
    assert mail.outbox[-1].to == [email]
    return parse_qs(urlsplit(link[0]).query)["invitation"][0]


@pytest.mark.parametrize("by", BY)
def test_where_it_is_closed_nobody_joins(settings: Any, olga: User, by: str):
    word = word_for("eva@example.com", olga)
    settings.SIGN_UP = "closed"
    answer = sign_up(by, "eva@example.com", word)
    assert not has_joined("eva@example.com")
    if by == "api":
        assert (answer.status_code, answer.json()["code"]) == (403, "sign_up_closed")
    for path in ("/", "/accounts/login/"):
        assert b"/accounts/signup/" not in Client().get(path).content


@pytest.mark.parametrize("by", BY)
def test_people_of_a_domain_join_and_whoever_is_invited(settings: Any, olga: User, by: str):
    settings.SIGN_UP, settings.SIGN_UP_DOMAINS = "domains", ["example.com"]
    word = word_for("guest@elsewhere.example", olga)
    sign_up(by, "Eva@Example.com")
    for other in ("eva@sub.example.com", "eva@example.com.evil.example", "eva@notexample.com", "eva@elsewhere.example"):
        answer = sign_up(by, other)
        assert not has_joined(other)
    if by == "api":
        assert (answer.status_code, answer.json()["code"]) == (403, "invitation_needed")
    else:
        assert "invitación" in answer.content.decode()
    sign_up(by, "guest@elsewhere.example", word)
    assert has_joined("eva@example.com")
    assert has_joined("guest@elsewhere.example")


@pytest.mark.parametrize("by", BY)
def test_an_invitation_is_for_one_address_once(settings: Any, olga: User, by: str):
    settings.SIGN_UP = "invitation"
    word = word_for("eva@example.com", olga)
    for email, given in (("eva@example.com", ""), ("eva@example.com", "x" * 32), ("mallory@example.com", word)):
        sign_up(by, email, given)
        assert not has_joined(email)
    sign_up(by, "eva@example.com", word)
    assert has_joined("eva@example.com")
    invitation = Invitation.objects.get()
    assert invitation.accepted_at is not None
    Invitation.objects.update(accepted_at=timezone.now())
    User.objects.filter(email="eva@example.com").update(email="other@example.com")
    sign_up(by, "eva@example.com", word)
    assert not has_joined("eva@example.com")


def test_an_invitation_runs_out_and_is_replaced_by_the_next(settings: Any, olga: User):
    settings.SIGN_UP = "invitation"
    old, new = word_for("eva@example.com", olga), word_for("eva@example.com", olga)
    assert Invitation.objects.count() == 1
    assert sign_up("api", "eva@example.com", old).status_code == 403
    Invitation.objects.update(expires_at=timezone.now() - dt.timedelta(seconds=1))
    assert sign_up("api", "eva@example.com", new).status_code == 403
    assert new not in str(Invitation.objects.values())


def test_the_link_opens_the_page_with_the_address(settings: Any, olga: User):
    settings.SIGN_UP = "invitation"
    assert "Se entra por invitación" in Client().get("/accounts/signup/").content.decode()
    page = Client().get("/accounts/signup/", {"invitation": word_for("eva@example.com", olga)}).content.decode()
    assert 'value="eva@example.com"' in page
    assert "Se entra por invitación" not in page
    assert "ya se usó o caducó" not in page
    used = Client().get("/accounts/signup/", {"invitation": "x"}).content.decode()
    assert "eva@example.com" not in used
    assert "ya se usó o caducó" in used  # nobody fills in a form for nothing


def test_nobody_is_invited_who_has_an_account(ana: User, olga: User):
    with pytest.raises(Conflict):
        joining.invite("ANA@example.com", by=olga, language="en")
    assert not mail.outbox


def test_an_operator_invites_in_the_admin(client: Client, olga: User):
    client.force_login(olga)
    client.post("/admin/accounts/invitation/add/", {"email": "Eva@example.com"})
    invitation = Invitation.objects.get()
    assert (invitation.email, invitation.invited_by) == ("eva@example.com", olga)
    assert mail.outbox[0].to == ["eva@example.com"]
    again = {"action": "send_again", "_selected_action": [invitation.pk]}
    client.post("/admin/accounts/invitation/", again)
    assert len(mail.outbox) == 2
    assert client.post("/admin/accounts/invitation/add/", {"email": olga.email}).status_code == 200
    client.post(f"/admin/accounts/invitation/{invitation.pk}/delete/", {"post": "yes"})
    assert not Invitation.objects.exists()


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("email", ["eva@mailinator.com", "eva@x.MAILINATOR.com", "eva@x.ｍailinator。com"])
def test_throw_away_addresses_are_refused(settings: Any, by: str, email: str):
    answer = sign_up(by, email)
    assert not has_joined(email.lower())
    if by == "api":
        assert (answer.status_code, answer.json()["code"]) == (400, "disposable_address")
    settings.REFUSE_DISPOSABLE_MAIL = False
    sign_up(by, email, peer="192.0.2.2")
    assert has_joined(email.lower())


def test_nobody_changes_to_an_address_they_could_not_join_with(settings: Any, ana: User):
    client = Client()
    client.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    client.post("/accounts/email/", {"email": "ana@mailinator.com", "action_add": ""})
    settings.SIGN_UP, settings.SIGN_UP_DOMAINS = "domains", ["example.com", "example.org"]
    page = client.post("/accounts/email/", {"email": "ana@elsewhere.example", "action_add": ""})
    assert "example.com, example.org" in page.content.decode()
    assert not mail.outbox
    client.post("/accounts/email/", {"email": "ana@example.org", "action_add": ""})
    settings.SIGN_UP_DOMAINS = ["example.org"]  # Ana is a guest there, and may go where she likes
    client.post("/accounts/email/", {"email": "ana@elsewhere.example", "action_add": ""})
    assert [message.to for message in mail.outbox] == [["ana@example.org"], ["ana@elsewhere.example"]]


def test_a_network_has_so_many_accounts_a_day(settings: Any):
    settings.SIGN_UPS_PER_HOUR, settings.SIGN_UPS_PER_DAY = 1_000, 2
    answers = [sign_up("api", f"eva{number}@example.com") for number in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert 3_600 < answers[2].json()["retry_after"] <= 12 * 3_600 + 1
    assert sign_up("api", "eva4@example.com", peer="192.0.2.2").status_code == 201


@pytest.mark.parametrize("changed", ["", "by its owner", "by the staff"])
def test_a_closed_account_leaves_no_invitation(settings: Any, client: Client, olga: User, changed: str):
    settings.SIGN_UP = "invitation"
    client.force_login(olga)
    ask_again(client, olga)
    client.post("/admin/accounts/invitation/add/", {"email": "eva@example.com"})
    assert "eva@example.com" in LogEntry.objects.values_list("object_repr", flat=True)
    sign_up("api", "eva@example.com", word_for("eva@example.com", olga))
    eva = User.objects.get(email="eva@example.com")
    if changed == "by the staff":
        page = f"/admin/accounts/user/{eva.pk}/change/"
        form = client.get(page).context["adminform"].form
        client.post(page, {name: value for name, value in form.initial.items() if value} | {"email": "e@example.com"})
    elif changed:
        member = Client()
        member.force_login(eva)
        member.post("/accounts/reauthenticate/", {"password": PASSWORD})
        member.post("/accounts/email/", {"email": "e@example.com", "action_add": ""})
        member.post(links_in(mail.outbox[-1])[0])
    eva.refresh_from_db()
    assert eva.email == ("e@example.com" if changed else "eva@example.com")
    eva.delete()
    assert not Invitation.objects.exists()
    assert "eva@example.com" not in LogEntry.objects.values_list("object_repr", flat=True)
