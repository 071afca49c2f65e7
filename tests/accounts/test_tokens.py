"""What the API's tokens say, and what signs them."""

import base64
import json

import jwt
import pytest
from django.contrib.auth.models import Group
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from accounts.api.views import tokens_for
from accounts.models import User
from accounts.tokens import AccessToken, access_token_of, begin_family
from billing.models import BillingAccount, Plan

NEW, OLDER = "n" * 70, "o" * 70


def claims_of(access: str) -> dict[str, object]:
    part = access.split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def status_of(access: str) -> int:
    return APIClient(headers={"authorization": f"Bearer {access}"}).get("/api/v1/me").status_code


def test_a_new_key_logs_nobody_out(ana: User, settings):
    old = settings.JWT_SECRET_KEY
    before = tokens_for(ana)
    settings.JWT_SECRET_KEY, settings.JWT_SECRET_KEY_FALLBACKS = NEW, [OLDER, old]
    assert status_of(before["access"]) == 200
    answer = APIClient().post("/api/v1/auth/refresh", {"refresh": before["refresh"]}, format="json")
    assert answer.status_code == 200
    for token in (answer.data["access"], answer.data["refresh"], tokens_for(ana)["access"]):
        jwt.decode(token, NEW, algorithms=["HS256"])  # or it raises
    settings.JWT_SECRET_KEY_FALLBACKS = []
    assert status_of(before["access"]) == 401
    assert status_of(answer.data["access"]) == 200


def test_an_expired_token_of_a_former_key_is_expired(ana: User, settings):
    token = AccessToken()
    token["exp"] = 1
    text = str(token)
    settings.JWT_SECRET_KEY_FALLBACKS = [settings.JWT_SECRET_KEY]
    settings.JWT_SECRET_KEY = NEW
    assert status_of(text) == 401


@pytest.mark.parametrize("headers", [{"alg": "none"}, {"alg": "HS512"}])
def test_no_other_algorithm_is_taken(ana: User, settings, headers: dict[str, str]):
    settings.JWT_SECRET_KEY_FALLBACKS = [OLDER]
    claims = claims_of(tokens_for(ana)["access"])
    key = "" if headers["alg"] == "none" else OLDER
    assert status_of(jwt.encode(claims, key, algorithm=headers["alg"])) == 401


def test_an_access_token_says_roles_and_plan_as_they_are(ana: User):
    claims = claims_of(tokens_for(ana)["access"])
    assert (claims["roles"], claims["plan"]) == ([], "free")
    refresh = begin_family(ana)
    ana.groups.add(Group.objects.create(name="support"))
    BillingAccount.objects.update_or_create(user=ana, defaults={"plan": Plan.objects.get(key="premium")})
    later = claims_of(str(access_token_of(refresh, ana)))
    assert (later["roles"], later["plan"]) == (["support"], "premium")
    assert not {"roles", "plan"} & refresh.payload.keys()


def test_what_a_token_says_of_roles_opens_nothing(ana: User):
    refresh = begin_family(ana)
    access = access_token_of(refresh, ana)
    access["roles"], access["plan"] = ["superuser"], "enterprise"
    client = APIClient(headers={"authorization": f"Bearer {access}"})
    assert client.get("/api/v1/subscription").data["plan"] != "enterprise"
    assert client.get("/admin/").status_code == 302


def test_a_request_with_a_token_reads_no_roles(ana: User, django_assert_num_queries: DjangoAssertNumQueries):
    access = tokens_for(ana)["access"]
    with django_assert_num_queries(2):
        assert status_of(access) == 200
