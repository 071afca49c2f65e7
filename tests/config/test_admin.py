"""The operator's pages: what happened can be seen, never what was said; what was metered cannot be changed."""

import re
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core import mail
from django.db.models import ProtectedError
from django.test import Client

from accounts import admin as admin_of_users
from accounts.admin import UserAdmin
from accounts.models import User
from accounts.second_factor import has_second_factor
from billing import metering
from billing.entitlements import account_of, current_period, entitlements_of
from billing.metering import Usage
from billing.models import BillingAccount, Plan, Price, UsagePeriod, UsageRecord
from chat.llm.catalog import find_model, list_offered
from chat.models import LanguageModel
from config.admin import SECTIONS
from config.version import VERSION
from history import progress
from history.models import Turn
from history.progress import Outcome
from tests.accounts.doors import ask_again, ask_for_reset, reset_password
from tests.accounts.factors import set_up
from tests.history.growing import ask, begin

pytestmark = pytest.mark.stores

PASSWORD = "una clave larga"
QUESTION, ANSWER, REASONING = "pregunta-secreta", "respuesta-secreta", "pensamiento-secreto"


@pytest.fixture
def operator(olga):
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    return ask_again(client, olga)


@pytest.fixture
def record(ana):
    key = uuid4()
    metering.reserve(ana.pk, key, amount_micros=10_000)
    metering.settle(key, cost_micros=7_000, usage=Usage(12, 34), label="scripted")
    return UsageRecord.objects.get(reservation_id=key)


@pytest.fixture
def turn(ana):
    turn = ask(begin(ana.pk), QUESTION, status=Turn.Status.QUEUED)
    progress.claim(turn)
    outcome = {"answer": ANSWER, "reasoning": REASONING, "model": "scripted", "cost_micros": 7_000, "output_tokens": 34}
    progress.close(turn, Outcome(Turn.Status.COMPLETED, **outcome))
    return turn


def page(client: Client, path: str, **query: str) -> str:
    answer = client.get(f"/admin/{path}", query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_visitor_is_sent_to_log_in(catalog):
    answer = Client().get("/admin/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/")


def test_a_member_is_no_operator(ana, turn):
    client = Client()
    client.force_login(ana)
    assert client.get("/admin/").status_code == 302
    assert client.get(f"/admin/history/turn/{turn.pk}/change/").status_code == 302


def test_the_operator_logs_in_with_an_address(olga):
    client = Client()
    answer = client.get("/admin/", follow=True)
    log_in, _ = answer.redirect_chain[-1]
    assert log_in == "/accounts/login/?next=%2Fadmin%2F"  # one log-in, with its limits
    answer = client.post(log_in, {"login": "OLGA@example.com", "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("accounts/user/", "billing/plan/", "billing/billingaccount/", "billing/usageperiod/"),
        *("billing/price/", "billing/subscription/", "billing/payment/", "billing/gatewayevent/"),
        *("billing/gatewaytask/", "billing/staffact/", "billing/letter/", "billing/reservation/"),
        "billing/exchangerate/",
        *("billing/usagerecord/", "chat/languagemodel/", "history/turn/"),
    ],
)
def test_the_first_page_leads_to_every_table(operator, path):
    assert f'href="/admin/{path}"' in page(operator, "")
    page(operator, path)


def test_every_table_has_its_place_on_the_first_page_and_none_is_a_library_s(operator, settings):
    settings.STRIPE_SECRET_KEY = "sk_test_of_the_admin"
    sections = operator.get("/admin/").context["app_list"]
    assert [str(section["name"]) for section in sections] == [str(name) for name, _entries in SECTIONS]
    assert f"Tertulia {VERSION}" in page(operator, "")
    assert "emailaddress" not in page(operator, "")


def test_the_bar_marks_the_page_one_is_on_and_no_other(operator):
    for path in ("billing/payment/", "billing/payment/dashboard/", "chat/languagemodel/health/"):
        marked = re.findall(r'<a href="(\S+)" aria-current="page"', page(operator, path))
        assert marked == [f"/admin/{path}"]


def test_the_admin_has_the_site_s_name_and_the_theme_one_chose(operator):
    operator.post("/theme/", {"theme": "dark"})
    shown = page(operator, "accounts/user/")
    assert "<title>Select user to change · Tertulia</title>" in shown
    assert re.search(r'<meta name="color-scheme"\s+content="dark">', shown)


# People


def test_the_operator_sees_users(operator, ana):
    assert "ana@example.com" in page(operator, "accounts/user/")
    assert "ana@example.com" in page(operator, f"accounts/user/{ana.pk}/change/")


def test_users_are_found_by_address_and_name(operator, ana, bo):
    found = page(operator, "accounts/user/", q="ana@")
    assert "ana@example.com" in found
    assert "bo@example.com" not in found


def test_a_password_is_never_shown(operator, ana):
    assert ana.password not in page(operator, f"accounts/user/{ana.pk}/change/")


def test_the_operator_adds_a_user(operator):
    body = {"email": " Eva@Example.com ", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert operator.post("/admin/accounts/user/add/", body).status_code == 302
    user = User.objects.get(email="eva@example.com")
    assert user.check_password(PASSWORD)
    assert not user.is_staff


def test_the_operator_confirms_an_address_but_none_that_somebody_else_has_confirmed(operator, ana, bo):
    EmailAddress.objects.create(user=ana, email=bo.email, verified=True)
    body = {"action": "confirm_addresses", "_selected_action": [ana.pk, bo.pk]}
    said = operator.post("/admin/accounts/user/", body, follow=True).content.decode()
    assert "1 address is confirmed." in said
    assert EmailAddress.objects.get(user=ana, email=ana.email).verified
    assert not EmailAddress.objects.get(user=bo, email=bo.email).verified


def test_who_may_change_people_gives_nobody_rights_and_changes_no_other_operator(olga, ana):
    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    people = Permission.objects.filter(content_type__app_label="accounts", content_type__model="user")
    clerk.user_permissions.set(people)
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(clerk)
    ask_again(client, clerk)
    profile = {"name": "Otra", "locale": "es", "time_zone": "UTC", "theme": "system", "is_active": "on"}
    rights = {
        "is_staff": "on",
        "is_superuser": "on",
        "user_permissions": Permission.objects.values_list("pk", flat=True),
    }
    for user in (clerk, ana):
        client.post(f"/admin/accounts/user/{user.pk}/change/", {"email": user.email, **profile, **rights})
        user.refresh_from_db()
        assert (user.name, user.is_staff, user.is_superuser) == ("Otra", user == clerk, False)
    assert set(clerk.user_permissions.all()) == set(people)

    new = {"usable_password": "true", "password1": "otra clave larga", "password2": "otra clave larga"}
    for path, fields in (
        ("change", {"email": "mine@example.com", **profile}),
        ("password", new),
        ("delete", {"post": "yes"}),
    ):
        assert client.post(f"/admin/accounts/user/{olga.pk}/{path}/", fields).status_code == 403
    client.post("/admin/accounts/user/", {"action": "delete_selected", "_selected_action": olga.pk, "post": "yes"})
    assert User.objects.get(pk=olga.pk).email == olga.email
    assert client.post(f"/admin/accounts/user/{ana.pk}/password/", new).status_code == 302

    client.post("/admin/accounts/user/", {"action": "confirm_addresses", "_selected_action": [olga.pk, ana.pk]})
    assert [address.user for address in EmailAddress.objects.all()] == [ana]


def test_nobody_does_to_themselves_what_asks_elsewhere_who_they_are(operator, olga):
    """Nor is anybody the last superuser: whoever ends another's rights keeps their own."""
    set_up(olga)
    edit(operator, olga, email="mine@example.com", name="Olga", is_active="", is_superuser="", is_staff="")
    new = {"usable_password": "true", "password1": "otra clave larga", "password2": "otra clave larga"}
    page = operator.post(f"/admin/accounts/user/{olga.pk}/password/", new)
    assert page["Location"] == "/accounts/password/change/"
    assert operator.post(f"/admin/accounts/user/{olga.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("delete_selected", "suspend", "remove_second_factors"):
        operator.post("/admin/accounts/user/", {"action": action, "_selected_action": olga.pk, "post": "yes"})
    before, olga = olga, User.objects.get()
    assert (olga.name, olga.email, olga.password) == ("Olga", before.email, before.password)
    assert olga.is_active
    assert olga.is_staff
    assert olga.is_superuser
    assert has_second_factor(olga.pk)


@pytest.mark.parametrize("how", ["suspend", "change", "delete", "delete_selected"])
def test_of_two_superusers_who_end_each_other_one_stays(operator, olga, monkeypatch, how):
    other = User.objects.create_superuser("other@example.com", PASSWORD)
    may_touch = admin_of_users._may_touch

    def too_late(request: Any, user: User | None) -> bool:
        """The other one is faster: her request is over when Olga's begins to write."""
        if request.method == "POST":
            User.objects.filter(pk=olga.pk).update(is_active=False)
        return may_touch(request, user)

    form = operator.get(f"/admin/accounts/user/{other.pk}/change/").context["adminform"].form.initial
    monkeypatch.setattr(admin_of_users, "_may_touch", too_late)
    if how == "change":
        sent = {name: value for name, value in form.items() if value and name != "is_superuser"}
        operator.post(f"/admin/accounts/user/{other.pk}/change/", sent)
    elif how == "delete":
        operator.post(f"/admin/accounts/user/{other.pk}/delete/", {"post": "yes"})
    else:
        operator.post("/admin/accounts/user/", {"action": how, "_selected_action": other.pk, "post": "yes"})
    assert User.objects.filter(is_superuser=True, is_active=True).exists()


def test_nobody_enlarges_the_group_they_are_in(catalog):
    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    of_groups = Permission.objects.filter(content_type__app_label="auth", content_type__model="group")
    group = Group.objects.create(name="Clerks")
    group.permissions.set(of_groups)
    clerk.groups.add(group)
    client = Client()
    client.force_login(clerk)
    ask_again(client, clerk)
    body = {"name": "Clerks", "permissions": list(Permission.objects.values_list("pk", flat=True))}
    assert client.get(f"/admin/auth/group/{group.pk}/change/").status_code == 200  # to be read
    for path, fields in (("add", body | {"name": "New"}), (f"{group.pk}/change", body), (f"{group.pk}/delete", {})):
        assert client.post(f"/admin/auth/group/{path}/", {"post": "yes", **fields}).status_code == 403
    client.post("/admin/auth/group/", {"action": "delete_selected", "_selected_action": group.pk, "post": "yes"})
    assert set(Group.objects.get().permissions.all()) == set(of_groups)


def test_who_may_only_look_at_models_changes_no_price(catalog, monkeypatch):
    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_languagemodel"))
    client = Client()
    client.force_login(clerk)
    read: list[object] = []
    monkeypatch.setattr("chat.admin.update_list_prices", lambda *given: read.append(given) or [])
    body = {"action": "update_prices", "_selected_action": [LanguageModel.objects.values_list("pk", flat=True)[0]]}
    client.post("/admin/chat/languagemodel/", body)
    assert read == []


@pytest.mark.parametrize("secret", ["seal", "password"])
def test_no_secret_is_guessed_by_filtering(operator, olga, secret):
    assert operator.get("/admin/accounts/user/", {f"{secret}__startswith": olga.seal[:1]}).status_code == 400


def test_an_account_is_added_by_somebody_s_address(operator, ana):
    assert operator.post("/admin/billing/billingaccount/add/", {"user": "nobody@example.com"}).status_code == 200
    assert operator.post("/admin/billing/billingaccount/add/", {"user": ana.email}).status_code == 302
    assert BillingAccount.objects.get().user == ana


def test_permissions_are_those_of_what_the_admin_has(operator):
    shown = page(operator, "auth/group/add/")
    assert "Can change payment" in shown
    assert "Can add session" not in shown


def test_an_address_that_has_an_account_is_not_added_again(operator, ana):
    body = {"email": "ANA@example.com", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    answer = operator.post("/admin/accounts/user/add/", body)
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors.keys() == {"email"}
    assert User.objects.filter(email__iexact="ana@example.com").count() == 1


def test_the_operator_suspends_a_user(operator, ana):
    body = {"email": ana.email, "name": "", "locale": "es", "time_zone": "UTC", "theme": "system"}
    assert operator.post(f"/admin/accounts/user/{ana.pk}/change/", body).status_code == 302
    ana.refresh_from_db()
    assert not ana.is_active


# Plans and models


def change_free(client: Client, **fields: object):
    """Send the form of the Free plan, filled in as it is but for `fields`."""
    free = Plan.objects.get(key="free")
    names = (
        *("key", "name", "rank", "is_default", "credits_per_month", "turns_per_hour", "turns_at_once"),
        *("question_characters", "answer_tokens", "best_tier", "trial_days", "trial_credits", "has_api"),
        "has_comparison",
    )
    form = {name: getattr(free, name) for name in names} | fields
    return client.post(f"/admin/billing/plan/{free.pk}/change/", form)


def test_a_plan_the_operator_changes_holds_at_once(operator, ana):
    assert entitlements_of(ana.pk).turns_per_hour == 20
    assert change_free(operator, turns_per_hour=7).status_code == 302
    assert entitlements_of(ana.pk).turns_per_hour == 7


def test_an_empty_limit_of_a_plan_means_no_limit(operator, ana):
    change_free(operator, credits_per_month="", turns_per_hour="", turns_at_once="")
    found = entitlements_of(ana.pk)
    assert (found.allowance_micros, found.turns_per_hour, found.turns_at_once) == (None, None, None)


def test_the_default_plan_cannot_be_deleted(operator, ana):
    free = Plan.objects.get(key="free")
    operator.post(f"/admin/billing/plan/{free.pk}/delete/", {"post": "yes"})
    assert entitlements_of(ana.pk).plan == "free"


def test_what_a_plan_gives_more_counts_at_once_and_what_it_gives_less_next_month(operator, ana):
    def allowance() -> int | None:
        return current_period(account_of(ana.pk)).allowance_micros

    assert allowance() == 500_000
    change_free(operator, credits_per_month=700)
    assert allowance() == 700_000
    change_free(operator, credits_per_month=100)
    assert allowance() == 700_000


def test_a_price_never_changes_but_for_being_for_sale(operator):
    fields = {"plan": Plan.objects.get(key="premium"), "gateway": "stripe", "currency": "USD", "interval": "month"}
    price = Price.objects.create(amount_minor=2_000, **fields)
    body = {"amount_minor": 1, "currency": "EUR", "interval": "year", "is_for_sale": ""}
    assert operator.post(f"/admin/billing/price/{price.pk}/change/", body).status_code == 302
    price.refresh_from_db()
    assert (price.amount_minor, price.currency, price.interval, price.is_for_sale) == (2_000, "USD", "month", False)
    price.amount_minor = 1
    with pytest.raises(ValueError, match="amount_minor"):
        price.save()
    with pytest.raises(ValueError, match="currency"):
        Price.objects.update(currency="EUR")
    assert operator.post(f"/admin/billing/price/{price.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_price_is_of_a_plan_or_of_a_pack(operator):
    body = {"plan": "", "gateway": "stripe", "currency": "usd", "amount_minor": 600, "interval": "", "reference": "p"}
    assert operator.post("/admin/billing/price/add/", body | {"pack_credits": 9, "pack_months": 0}).status_code == 200
    assert operator.post("/admin/billing/price/add/", body | {"pack_credits": 9, "pack_months": 1}).status_code == 302
    assert Price.objects.get().currency == "USD"


def test_a_model_the_operator_withdraws_is_not_offered(operator):
    assert "scripted" in [candidate.model.key for candidate in list_offered()]
    rows = list(LanguageModel.objects.all())
    body = {"form-TOTAL_FORMS": len(rows), "form-INITIAL_FORMS": len(rows), "_save": "Save"}
    for number, row in enumerate(rows):
        body |= {f"form-{number}-id": row.pk, f"form-{number}-position": row.position}
    assert operator.post("/admin/chat/languagemodel/", body).status_code == 302
    assert list_offered() == []


def model_form(model: LanguageModel, **fields: object) -> dict[str, object]:
    names = (
        "key",
        "provider",
        "provider_model",
        "label",
        "tier",
        "position",
        "enabled",
        "max_tokens_parameter",
        "markup_percent",
    )
    rest = {name: getattr(model, name) for name in (*names, "context_window", "max_output")}
    return rest | {"input_price": "0.10", "output_price": "0.5"} | fields


def test_prices_are_written_in_dollars_and_changed_at_once(operator):
    model = LanguageModel.objects.get(key="gpt-6-luna")
    path = f"/admin/chat/languagemodel/{model.pk}/change/"
    shown = operator.get(path).content.decode()
    assert "input $0.1 (&gt; 272,000: $0.2), output $0.5" in shown
    assert "Input price:" in shown
    assert operator.post(path, model_form(model, input_price="0.3", cache_read_price="")).status_code == 302
    found = find_model("gpt-6-luna")
    assert (found.input_price, found.output_price, found.cache_read_price) == (300_000, 500_000, None)
    assert 'value="0.3"' in operator.get(path).content.decode()


@pytest.mark.parametrize("price", ["-1", "0", "1001", "1e9", "NaN", "much"])
def test_a_price_that_cannot_be_is_refused_and_nothing_changes(operator, price):
    model = LanguageModel.objects.get(key="gpt-6-luna")
    answer = operator.post(f"/admin/chat/languagemodel/{model.pk}/change/", model_form(model, input_price=price))
    assert answer.status_code == 200
    assert "input_price" in answer.context["adminform"].form.errors
    assert find_model("gpt-6-luna").input_price is None


def test_the_list_says_who_is_offered_and_why_not(operator, settings):
    settings.OPENAI_API_KEY = "k"
    LanguageModel.objects.filter(key="gpt-6.1-sol").update(list_price=None)
    LanguageModel.objects.filter(key="gpt-6.1-terra").update(enabled=False)
    rows = page(operator, "chat/languagemodel/").split("<tr>")
    for key, said in (
        ("gpt-6-luna", "yes"),
        ("gpt-6.1-sol", "no: its price is unknown"),
        ("gpt-6.1-terra", "no: switched off"),
        ("claude-opus-5-5", "no: its provider has no key"),
    ):
        [row] = [row for row in rows if f">{key}<" in row]
        assert f'<td class="field-offered">{said}</td>' in row


def compare(operator: Client, *keys: str) -> str:
    chosen = list(LanguageModel.objects.filter(key__in=keys).values_list("pk", flat=True))
    body = {"action": "compare_with_provider", "_selected_action": chosen}
    return operator.post("/admin/chat/languagemodel/", body, follow=True).content.decode()


def test_the_catalogue_is_compared_with_what_the_provider_has(operator, settings, llmock):
    settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "k", llmock.base_url("openai")
    before = list(LanguageModel.objects.values_list("key", "enabled"))
    said = compare(operator, "gpt-6-luna", "claude-opus-5-5")
    assert "OpenAI. New: " in said
    assert "gpt-4o-mini" in said
    assert "Gone: gpt-6-luna, gpt-6.1-sol, gpt-6.1-terra." in said
    assert "Anthropic cannot be asked: it has no key." in said
    assert list(LanguageModel.objects.values_list("key", "enabled")) == before


def test_a_provider_that_refuses_to_tell_its_models_is_a_sentence(operator, settings, llmock):
    settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "k", llmock.base_url("openai")
    llmock.fail(401, times=None)
    assert "OpenAI: This model cannot be reached: its provider refuses our key." in compare(operator, "gpt-6-luna")


def test_a_model_whose_answer_would_not_fit_its_window_is_refused(operator):
    model = LanguageModel.objects.get(key="scripted")
    form = model_form(model, context_window=1_000, max_output=1_000)
    answer = operator.post(f"/admin/chat/languagemodel/{model.pk}/change/", form)
    assert answer.status_code == 200
    assert "__all__" in answer.context["adminform"].form.errors


# Usage


def test_the_operator_sees_what_was_used_by_whom(operator, record):
    listed = page(operator, "billing/usagerecord/")
    for shown in ("ana@example.com", "scripted", "7000"):
        assert shown in listed.replace(",", "")
    assert "ana@example.com" in page(operator, "billing/usageperiod/")


@pytest.mark.parametrize("query", ["ana@example", "{key}"])
def test_usage_is_found_by_address_and_by_turn(operator, record, query):
    found = page(operator, "billing/usagerecord/", q=query.format(key=record.reservation_id))
    assert "1 usage record" in found


def test_usage_of_somebody_else_is_not_found(operator, record):
    assert "0 usage records" in page(operator, "billing/usagerecord/", q="bo@example.com")


def test_one_usage_record_can_be_read(operator, record):
    assert "scripted" in page(operator, f"billing/usagerecord/{record.pk}/change/")


@pytest.mark.parametrize("table", ["usagerecord", "usageperiod"])
def test_what_was_metered_cannot_be_added(operator, table):
    assert operator.get(f"/admin/billing/{table}/add/").status_code == 403
    assert operator.post(f"/admin/billing/{table}/add/", {}).status_code == 403


def test_a_usage_record_cannot_be_changed(operator, record):
    answer = operator.post(f"/admin/billing/usagerecord/{record.pk}/change/", {"cost_micros": 1})
    assert answer.status_code == 403
    record.refresh_from_db()
    assert record.cost_micros == 7_000


def test_a_usage_period_cannot_be_changed(operator, record):
    answer = operator.post(f"/admin/billing/usageperiod/{record.period_id}/change/", {"used_micros": 0})
    assert answer.status_code == 403
    assert UsagePeriod.objects.get(pk=record.period_id).used_micros == 7_000


def test_a_usage_record_cannot_be_deleted(operator, record):
    path = f"/admin/billing/usagerecord/{record.pk}/delete/"
    assert operator.post(path, {"post": "yes"}).status_code == 403
    body = {"action": "delete_selected", "_selected_action": record.pk, "post": "yes"}
    operator.post("/admin/billing/usagerecord/", body)
    assert UsageRecord.objects.filter(pk=record.pk).exists()


def test_an_account_cannot_be_deleted_with_what_was_used(operator, ana, record):
    pk = account_of(ana.pk).pk
    assert operator.post(f"/admin/billing/billingaccount/{pk}/delete/", {"post": "yes"}).status_code == 403
    body = {"action": "delete_selected", "_selected_action": pk, "post": "yes"}
    operator.post("/admin/billing/billingaccount/", body)
    assert UsageRecord.objects.filter(pk=record.pk).exists()
    assert BillingAccount.objects.filter(user=ana).exists()
    with pytest.raises(ProtectedError):
        BillingAccount.objects.get(pk=pk).delete()


def delete_by_page(operator: Client, user: User) -> None:
    asked = page(operator, f"accounts/user/{user.pk}/delete/")
    assert "ana@example.com" in asked
    for kept in ("billing account", "usage", "reservation"):
        assert kept not in asked.lower().partition("<main")[2]
    answer = operator.post(f"/admin/accounts/user/{user.pk}/delete/", {"post": "yes"})
    assert answer["Location"] == "/admin/accounts/user/"


def delete_by_action(operator: Client, user: User) -> None:
    body = {"action": "delete_selected", "_selected_action": user.pk, "post": "yes"}
    assert operator.post("/admin/accounts/user/", body).status_code == 302


@pytest.mark.parametrize("delete", [delete_by_page, delete_by_action, lambda _operator, user: user.delete()])
def test_who_used_something_is_deleted_and_the_ledger_keeps_it_without_a_name(operator, ana, record, delete):
    delete(operator, ana)
    assert not User.objects.filter(pk=ana.pk).exists()
    assert not LogEntry.objects.filter(object_repr__contains="@").exists()
    record.refresh_from_db()
    assert (record.cost_micros, record.period.used_micros, record.period.account.user) == (7_000, 7_000, None)
    assert not metering.list_unbalanced_periods().exists()
    page(operator, "")  # says once more who was deleted
    for path in (
        "usagerecord/",
        "usageperiod/",
        "billingaccount/",
        f"billingaccount/{record.period.account_id}/change/",
    ):
        assert "ana@" not in page(operator, f"billing/{path}")
    for path in ("usagerecord/", "usageperiod/", "billingaccount/"):
        assert f"deleted, account {record.period.account_id}" in page(operator, f"billing/{path}")


def test_what_a_deleted_person_used_becomes_nobody_elses(operator, olga, ana, record):
    account = record.period.account
    ana.delete()
    assert operator.post(f"/admin/billing/billingaccount/{account.pk}/change/", {"user": olga.pk}).status_code == 403
    account.refresh_from_db()
    assert account.user is None


# Turns


def assert_nothing_said(html: str) -> None:
    for said in (QUESTION, ANSWER, REASONING):
        assert said not in html


def test_the_operator_sees_turns_and_nothing_that_was_said(operator, turn):
    listed = page(operator, "history/turn/")
    assert str(turn.pk) in listed
    assert_nothing_said(listed)


def test_one_turn_shows_what_happened_and_nothing_that_was_said(operator, turn):
    shown = page(operator, f"history/turn/{turn.pk}/change/")
    for fact in ("scripted", "completed", str(turn.conversation_id)):
        assert fact in shown
    assert_nothing_said(shown)


def test_the_page_of_a_turns_changes_shows_nothing_that_was_said(operator, turn):
    assert_nothing_said(page(operator, f"history/turn/{turn.pk}/history/"))


@pytest.mark.parametrize("field", ["pk", "conversation_id"])
def test_a_turn_is_found_by_its_ids(operator, turn, field):
    other = ask(begin(7), "otra")
    found = page(operator, "history/turn/", q=str(getattr(turn, field)))
    assert str(turn.pk) in found
    assert str(other.pk) not in found
    assert_nothing_said(found)


@pytest.mark.parametrize("query", [QUESTION, ANSWER, "ana@example.com", "7", "'"])
def test_a_turn_is_not_found_by_what_was_said(operator, turn, query):
    found = page(operator, "history/turn/", q=query)
    assert str(turn.pk) not in found


@pytest.mark.parametrize(
    ("filters", "is_found"),
    [
        ({"status__exact": "completed"}, True),
        ({"status__exact": "failed"}, False),
        ({"model": "scripted"}, True),
        ({"model": "other"}, False),
        ({"error": "timeout"}, False),
    ],
)
def test_turns_are_filtered_by_what_happened(operator, turn, filters, is_found):
    found = page(operator, "history/turn/", **filters)
    assert (str(turn.pk) in found) == is_found
    assert_nothing_said(found)


@pytest.mark.parametrize("lookup", ["question__contains", "answer__contains", "search_text__contains"])
def test_what_was_said_cannot_be_guessed_through_the_address(operator, turn, lookup):
    right = operator.get("/admin/history/turn/", {lookup: "secret"}, follow=True).content.decode()
    wrong = operator.get("/admin/history/turn/", {lookup: "nothing-of-it"}, follow=True).content.decode()
    assert (str(turn.pk) in right) == (str(turn.pk) in wrong)


def test_a_turn_cannot_be_added_changed_or_deleted(operator, turn):
    assert operator.get("/admin/history/turn/add/").status_code == 403
    assert operator.post(f"/admin/history/turn/{turn.pk}/change/", {"status": "failed"}).status_code == 403
    assert operator.post(f"/admin/history/turn/{turn.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Turn.objects.get().status == Turn.Status.COMPLETED


def test_a_turn_that_does_not_exist_is_no_error(operator, turn):
    answer = operator.get(f"/admin/history/turn/{uuid4()}/change/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")


@pytest.mark.parametrize(
    ("path", "query", "fields"),
    [
        ("auth/group/", {}, {"action": "delete_selected", "_selected_action": "None"}),
        ("auth/group/add/", {}, {"name": "x", "permissions": "9" * 30}),
        ("auth/group/add/", {"_to_field": ""}, {}),
    ],
)
def test_a_value_that_no_field_takes_is_a_page_that_says_so(operator, path, query, fields):
    answer = operator.post(f"/admin/{path}?{urlencode(query)}", fields)
    assert answer.status_code in (200, 302, 400)
    assert answer.status_code != 400 or "We could not read that request." in answer.text


def edit(operator: Client, user: User, **changes: str):
    """Send the form of a user as the page has it, but for some changes."""
    path = f"/admin/accounts/user/{user.pk}/change/"
    fields = operator.get(path).context["adminform"].form.initial
    sent = {name: value for name, value in fields.items() if value or value == 0}
    return operator.post(path, {**sent, **changes})


def test_an_address_that_an_operator_changed_is_the_only_one(operator, ana, bo):
    EmailAddress.objects.create(user=ana, email=ana.email, verified=True, primary=True)
    EmailAddress.objects.create(user=ana, email="eve@example.com")
    assert edit(operator, ana, email="Ana@New.example.com").status_code == 302
    former = ana.email
    ana.refresh_from_db()
    assert ana.email == "ana@new.example.com"
    assert not EmailAddress.objects.filter(user=ana).exists()
    SocialAccount.objects.create(user=ana, provider="google", uid="eve's")
    new = {"usable_password": "true", "password1": "otra clave larga", "password2": "otra clave larga"}
    operator.post(f"/admin/accounts/user/{ana.pk}/password/", new)
    assert not SocialAccount.objects.filter(user=ana).exists()
    assert [message.to for message in mail.outbox] == [[former], [ana.email]]
    assert ana.email in str(mail.outbox[0].body)


def test_what_changed_elsewhere_while_an_operator_edited_a_user_stays(operator, ana, monkeypatch):
    save_form = UserAdmin.save_form

    def save_late(*args: Any, **options: Any) -> object:
        User.objects.filter(pk=ana.pk).update(password="chosen meanwhile", seal="made meanwhile", theme="dark")
        return save_form(*args, **options)

    monkeypatch.setattr(UserAdmin, "save_form", save_late)
    assert edit(operator, ana, name="Ana María").status_code == 302
    ana.refresh_from_db()
    assert (ana.name, ana.password, ana.seal) == ("Ana María", "chosen meanwhile", "made meanwhile")
    assert ana.theme == "dark"


def test_an_address_whose_row_was_left_to_somebody_else_is_reset_all_the_same(ana, bo):
    EmailAddress.objects.create(user=bo, email=ana.email, verified=True, primary=True)
    ask_for_reset(ana.email)
    browser = reset_password(mail.outbox[0], "la clave de la dueña")
    assert browser.get("/settings/").status_code == 200
    assert list(EmailAddress.objects.values_list("user_id", "email")) == [(ana.pk, ana.email)]


def test_a_suspension_by_an_operator_ends_what_the_person_has_open(operator, ana):
    seal = ana.seal
    edit(operator, ana, is_active="")
    ana.refresh_from_db()
    assert (ana.is_active, ana.seal == seal) == (False, False)
