"""Your own account."""

import pytest

ADDRESS = "/api/v1/me"


def test_you_see_your_account(api, ana):
    body = api(ana).get(ADDRESS).json()
    assert set(body) == {"id", "email", "name", "locale", "time_zone", "theme", "keep_history_days", "created_at"}
    assert (body["id"], body["email"]) == (ana.pk, "ana@example.com")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", "Ana María"), ("name", ""), ("locale", "pt-br"), ("time_zone", "America/Lima"), ("theme", "dark")),
        *(("keep_history_days", 90), ("keep_history_days", None)),
    ],
)
def test_you_change_your_profile(api, ana, field, value):
    answer = api(ana).patch(ADDRESS, {field: value}, format="json")
    assert answer.status_code == 200
    assert answer.json()[field] == value
    ana.refresh_from_db()
    assert getattr(ana, field) == value


def test_a_change_leaves_the_rest(api, ana):
    before = api(ana).get(ADDRESS).json()
    after = api(ana).patch(ADDRESS, {"name": "Ana María"}, format="json").json()
    assert after == before | {"name": "Ana María"}


@pytest.mark.parametrize("field", ["id", "email", "is_staff", "is_superuser", "is_active", "password", "created_at"])
def test_what_you_are_cannot_be_changed_here(api, ana, field):
    before = str(getattr(ana, field))
    answer = api(ana).patch(ADDRESS, {field: "eva@example.com"}, format="json")
    assert answer.status_code == 200
    ana.refresh_from_db()
    assert str(getattr(ana, field)) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_zone", "Mars/Olympus"),
        ("time_zone", ""),
        ("time_zone", None),
        ("locale", "xx"),
        ("theme", "pink"),
        ("name", None),
        ("name", "x" * 101),
        ("name", "a\0b"),
        ("name", ["Ana"]),
    ],
)
def test_what_a_profile_cannot_hold_is_refused(api, ana, field, value):
    answer = api(ana).patch(ADDRESS, {field: value}, format="json")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]


def test_a_visitor_has_no_account(api, catalog):
    assert api().get(ADDRESS).status_code == 401
    assert api().patch(ADDRESS, {"name": "Nadie"}, format="json").status_code == 401
