"""Rows by plain statements: what is written and read is what the ORM writes and reads, on every store."""

import ast
import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.db import IntegrityError, connections, models, router, transaction
from django.db.models import Field, Model
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod, UsageRecord
from core import rows
from history.models import Conversation, Turn, new_id
from tests.services import STORES

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

needs_transactions = pytest.mark.skipif(STORES == "mongodb", reason="MongoDB has no transactions.")

HISTORY = (Turn, Conversation)
BILLING = (BillingAccount, UsagePeriod, Reservation, UsageRecord)
COUNTED = (BillingAccount, UsagePeriod, UsageRecord)
"""Models whose key the database counts."""

LONG_AGO = dt.datetime(1999, 12, 31, 23, 59, 59, 999000, dt.UTC)
IN_LIMA = dt.datetime(2026, 2, 28, 22, 0, 0, 1000, dt.timezone(dt.timedelta(hours=-5)))
GREATEST = 2**63 - 1
TEXTS = (
    "",
    " ",
    "it's \"quoted\" and `quoted`; -- \\ \\' $1 :name",
    "%s %d %% %(name)s 100%",
    "? ?? ?1",
    "{{ value }} {$set: 1} $where",
    "línea\r\n\tcon ñ, ẞ, 漢字, עברית, \u200d\u2028",
    "👩🏽\u200d🚀😀",
    "\x01\x1f\x7f",
    "NULL",
)


# --- Rows to write ----------------------------------------------------------------------------------------------------


def turn(**fields: Any) -> Turn:
    defaults = {"owner_id": 1, "conversation_id": new_id(), "seq": 1, "requested_model": "scripted", "max_output": 100}
    return Turn(**(defaults | {"question": "hola"} | fields))


def conversation(**fields: Any) -> Conversation:
    return Conversation(**({"owner_id": 1, "title": "Saludos"} | fields))


def account(**fields: Any) -> BillingAccount:
    user = User.objects.create_user(f"{new_id()}@example.com", "una clave larga")
    return BillingAccount(**({"user_id": user.pk} | fields))


def period(**fields: Any) -> UsagePeriod:
    owner = account()
    owner.save()
    return UsagePeriod(**({"account_id": owner.pk, "period_start": LONG_AGO, "period_end": IN_LIMA} | fields))


def reservation(**fields: Any) -> Reservation:
    month = period()
    month.save()
    return Reservation(**({"pk": new_id(), "period_id": month.pk, "amount_micros": 500} | fields))


def record(**fields: Any) -> UsageRecord:
    held = reservation()
    held.save()
    ids = {"reservation_id": held.pk, "period_id": held.period_id}
    return UsageRecord(**(ids | {"label": "scripted", "source": "provider", "cost_micros": 7} | fields))


EMPTY: dict[type[Model], Callable[..., Any]] = {
    Turn: turn,
    Conversation: conversation,
    BillingAccount: account,
    UsagePeriod: period,
    Reservation: reservation,
    UsageRecord: record,
}


def full(model: type[Model]) -> Any:
    """Return a row in which every field that may be empty is not."""
    row = EMPTY[model]()
    if model is BillingAccount:
        row.plan = Plan.objects.create(key=str(new_id()), name="Open")
    for field in model._meta.concrete_fields:
        if field.primary_key or field.is_relation or field.choices:
            continue
        match field.get_internal_type():
            case "DateTimeField" if field.name != "period_start":
                setattr(row, field.attname, IN_LIMA)
            case "UUIDField":
                setattr(row, field.attname, new_id())
            case "BigIntegerField":
                setattr(row, field.attname, GREATEST)
            case "IntegerField" | "PositiveIntegerField":
                setattr(row, field.attname, 2**31 - 1)
            case "SmallIntegerField":
                setattr(row, field.attname, 2**15 - 1)
            case "BooleanField":
                setattr(row, field.attname, True)
            case "BinaryField":
                setattr(row, field.attname, b"\0\xff'%s")
            case "CharField" | "TextField":
                setattr(row, field.attname, "¿'%s'? 😀"[: field.max_length])
    return row


def same(row: Model) -> dict[str, Any]:
    """Return where the row is found, without the key only the database knows."""
    unique = {BillingAccount: "user_id", UsagePeriod: "account_id", UsageRecord: "reservation_id"}
    name = unique.get(type(row), "pk")
    return {name: getattr(row, name)}


def values(row: Model | None) -> dict[str, tuple[type, Any]]:
    """Return every field's value, and its type."""
    assert row is not None
    found = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    return {name: (type(value), value) for name, value in found.items()}


def given_values(row: Model) -> dict[str, Any]:
    """Return the values a caller gives: all but a key the database counts."""
    return {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if field is not row._meta.auto_field
    }


@pytest.fixture(params=["plain", "logged"])
def _both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Statements go to the driver, and where they are logged through Django's cursor."""
    with ExitStack() as stack:
        if request.param == "logged":
            for alias in connections:
                stack.enter_context(CaptureQueriesContext(connections[alias]))
        yield


both_ways = pytest.mark.usefixtures("_both_ways")
of_every_model = pytest.mark.parametrize("model", [*HISTORY, *BILLING], ids=lambda model: model.__name__)
of_every_filling = pytest.mark.parametrize(
    "make", [lambda model: EMPTY[model](), full], ids=["with defaults", "with everything"]
)
Make = Callable[[type[Model]], Any]


# --- One row ----------------------------------------------------------------------------------------------------------


@both_ways
@of_every_model
@of_every_filling
def test_a_row_that_is_inserted_is_read_by_the_orm(model: type[Model], make: Make):
    row = make(model)
    rows.insert(row)
    assert given_values(model._default_manager.get(**same(row))) == given_values(row)


@both_ways
@of_every_model
@of_every_filling
def test_a_row_of_the_orm_is_found_with_the_same_values_and_types(model: type[Model], make: Make):
    row = make(model)
    row.save(force_insert=True)
    expected = model._default_manager.get(pk=row.pk)
    for found in (rows.find(model, pk=row.pk), rows.find(model, **same(row))):
        assert type(found) is model
        assert found == expected
        assert values(found) == values(expected)
        assert found.get_deferred_fields() == set()


@of_every_model
def test_a_row_that_was_found_is_known_to_be_saved(model: type[Model]):
    row = EMPTY[model]()
    row.save()
    found = rows.find(model, pk=row.pk)
    assert found is not None
    assert (found._state.adding, found._state.db) == (False, router.db_for_write(model))


@of_every_model
def test_a_row_that_was_inserted_is_known_to_be_saved(model: type[Model]):
    row = EMPTY[model]()
    rows.insert(row)
    assert (row._state.adding, row._state.db) == (False, router.db_for_write(model))


def test_a_row_that_was_inserted_can_be_changed_and_deleted_by_the_orm():
    row = conversation()
    rows.insert(row)
    row.title = "Otro"
    row.save()
    assert Conversation.objects.get().title == "Otro"
    row.delete()
    assert Conversation.objects.count() == 0


@of_every_model
def test_a_row_that_is_not_there_is_none(model: type[Model]):
    row = EMPTY[model]()
    assert rows.find(model, **same(row)) is None


@both_ways
def test_any_text_is_kept_as_it_is():
    for text in TEXTS:
        row = turn(question=text, answer=text * 3, error=text[:40])
        rows.insert(row)
        by_text = rows.find(Turn, question=text, answer=text * 3)
        for found in (Turn.objects.get(pk=row.pk), rows.find(Turn, pk=row.pk), by_text):
            assert found is not None
            assert (found.question, found.answer, found.error) == (text, text * 3, text[:40])


@both_ways
@pytest.mark.parametrize("number", [0, -1, 2**31, GREATEST, -GREATEST - 1])
def test_a_big_integer_is_kept_as_it_is(number: int):
    rows.insert(conversation(owner_id=number))
    assert Conversation.objects.get().owner_id == number
    assert [row.owner_id for row in rows.select(Conversation, {"owner_id": number})] == [number]


@both_ways
@pytest.mark.parametrize("is_default", [True, False])
def test_a_boolean_is_a_boolean(is_default: bool):
    rows.insert(Plan(key="open", name="Open", is_default=is_default, credits_per_month=None))
    assert Plan.objects.get().is_default is is_default
    found = rows.find(Plan, key="open", is_default=is_default)
    assert found is not None
    assert found.is_default is is_default
    assert rows.find(Plan, key="open", is_default=not is_default) is None
    rows.update(Plan, {"key": "open"}, {"is_default": not is_default})
    assert Plan.objects.get().is_default is not is_default


@both_ways
def test_a_time_is_the_same_moment_in_utc():
    row = turn(created_at=IN_LIMA, completed_at=LONG_AGO)
    rows.insert(row)
    found = rows.find(Turn, pk=row.pk)
    assert found is not None
    assert (found.created_at, found.completed_at) == (IN_LIMA, LONG_AGO)
    assert found.created_at.utcoffset() == dt.timedelta(0)
    assert repr(found.created_at) == repr(Turn.objects.get().created_at)


def test_microseconds_are_kept_where_the_orm_keeps_them():
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, dt.UTC)
    row = reservation(created_at=moment)
    rows.insert(row)
    found = rows.find(Reservation, pk=row.pk)
    assert found is not None
    assert found.created_at == Reservation.objects.get().created_at == moment


def test_the_foreign_keys_of_a_row_lead_to_its_relations():
    row = record()
    rows.insert(row)
    found = rows.find(UsageRecord, reservation_id=row.reservation_id)
    assert found is not None
    assert found.reservation.period == found.period == UsagePeriod.objects.get()


@both_ways
@pytest.mark.parametrize("model", COUNTED, ids=lambda model: model.__name__)
def test_a_key_the_database_counts_is_given_by_it(model: type[Model]):
    written = [EMPTY[model]() for _ in range(3)]
    for row in written:
        rows.insert(row)
    assert [row.pk for row in written] == [None] * 3
    keys = [model._default_manager.get(**same(row)).pk for row in written]
    assert keys == sorted(set(keys))
    by_orm = EMPTY[model]()
    by_orm.save()
    assert by_orm.pk > keys[-1]


# --- Several rows -----------------------------------------------------------------------------------------------------


@pytest.fixture
def talk() -> list[Turn]:
    """Nine turns of one conversation, and one of another person's."""
    conversation_id = new_id()
    turns = [
        turn(
            conversation_id=conversation_id,
            parent_id=None if seq in (1, 5) else new_id(),
            seq=seq,
            status=status,
            created_at=LONG_AGO + dt.timedelta(hours=seq),
        )
        for seq, status in enumerate(("completed", "queued", "streaming") * 3, 1)
    ]
    Turn.objects.bulk_create([*turns, turn(owner_id=2)])
    return turns


CONDITIONS = (
    {"owner_id": 1},
    {"owner_id": 1, "status": ("queued", "streaming")},
    {"status": ("queued",), "owner_id": (1, 2)},
    {"owner_id": (1,), "seq": (9, 1, 1, 77)},
    {"owner_id": 1, "seq__lt": 4},
    {"owner_id": 1, "seq__gt": 2},
    {"owner_id": 1, "seq__lt": 1},
    {"created_at__lt": LONG_AGO + dt.timedelta(hours=5), "owner_id": 1},
    {"seq__lt": 8, "status": ("completed", "queued"), "owner_id": 1},
    {"owner_id": 1, "parent_id__isnull": True},
    {"owner_id": 3},
)


def by_orm(where: dict[str, Any]) -> Any:
    lookups = {f"{name}__in" if isinstance(value, tuple) else name: value for name, value in where.items()}
    return Turn.objects.filter(**lookups)


@both_ways
@pytest.mark.parametrize("where", CONDITIONS, ids=str)
def test_a_selection_is_the_queryset(talk: list[Turn], where: dict[str, Any]):
    for order_by, limit in product(["seq", "-seq", "-created_at"], [None, 0, 1, 3, 100]):
        expected = list(by_orm(where).order_by(order_by)[:limit])
        found = rows.select(Turn, where, order_by=order_by, limit=limit)
        assert [values(row) for row in found] == [values(row) for row in expected]
    names = ("pk", "parent_id", "created_at", "answer")
    expected_values = list(by_orm(where).order_by("-seq").values_list(*names))
    assert rows.select_values(Turn, names, where, order_by="-seq") == expected_values


def test_a_selection_without_an_order_has_the_same_rows(talk: list[Turn]):
    found = rows.select(Turn, {"owner_id": 1})
    assert sorted(found, key=lambda row: row.seq) == talk


def test_keys_in_a_tuple(talk: list[Turn]):
    keys = (talk[2].pk, talk[5].pk, new_id())
    assert rows.select(Turn, {"pk": keys}, order_by="seq") == [talk[2], talk[5]]
    assert rows.select(Turn, {"id": (talk[0].pk,)}) == [talk[0]]


# --- Changes ----------------------------------------------------------------------------------------------------------


@both_ways
@of_every_model
def test_an_update_of_every_field_is_read_by_the_orm(model: type[Model]):
    row = EMPTY[model]()
    row.save()
    wanted = full(model)
    new = {name: value for name, value in given_values(wanted).items() if name != model._meta.pk.attname}
    for name in same(row):
        new.pop(name, None)
    assert rows.update(model, {"pk": row.pk}, new) == 1
    found = given_values(model._default_manager.get(pk=row.pk))
    assert {name: found[name] for name in new} == new


@both_ways
@pytest.mark.parametrize("where", CONDITIONS, ids=str)
def test_an_update_touches_what_the_queryset_touches(talk: list[Turn], where: dict[str, Any]):
    touched = {row.pk for row in by_orm(where)}
    assert rows.update(Turn, where, {"error": "¿'%s'?", "cost_micros": None}) == len(touched)
    assert {row.pk for row in Turn.objects.filter(error="¿'%s'?")} == touched


def test_an_update_can_empty_a_field():
    row = full(Turn)
    row.save()
    rows.update(Turn, {"pk": row.pk}, {"parent_id": None, "cost_micros": None, "started_at": None})
    found = Turn.objects.get()
    assert (found.parent_id, found.cost_micros, found.started_at) == (None, None, None)


@both_ways
def test_plus_counts_on_and_back():
    row = conversation(turn_count=3)
    row.save()
    assert rows.update(Conversation, {"pk": row.pk}, {"title": "Otro"}, plus={"turn_count": 2}) == 1
    assert rows.update(Conversation, {"pk": row.pk}, {}, plus={"turn_count": -4, "owner_id": 2**40}) == 1
    found = Conversation.objects.get()
    assert (found.title, found.turn_count, found.owner_id) == ("Otro", 1, 2**40 + 1)


@both_ways
def test_plus_counts_in_every_row_that_fits():
    month = period(used_micros=GREATEST - 1, reserved_micros=10, noticed_percent=1)
    month.save()
    other = period(reserved_micros=10)
    other.save()
    plus = {"used_micros": 1, "reserved_micros": -10, "noticed_percent": -1}
    assert rows.update(UsagePeriod, {"pk": month.pk}, {}, plus=plus) == 1
    assert rows.update(UsagePeriod, {"pk": (month.pk, other.pk)}, {}, plus={"noticed_percent": 5}) == 2
    month.refresh_from_db()
    other.refresh_from_db()
    assert (month.used_micros, month.reserved_micros, month.noticed_percent) == (GREATEST, 0, 5)
    assert (other.used_micros, other.reserved_micros, other.noticed_percent) == (0, 10, 5)


@of_every_model
def test_an_update_of_nothing_touches_nothing(model: type[Model]):
    row = EMPTY[model]()
    field = "title" if model is Conversation else "created_at"
    field = {UsagePeriod: "period_end", UsageRecord: "recorded_at"}.get(model, field)
    assert rows.update(model, same(row), {field: getattr(row, field)}) == 0


def test_a_change_under_a_condition_happens_once(talk: list[Turn]):
    condition = {"pk": talk[1].pk, "status": "queued"}
    assert [rows.update(Turn, condition, {"status": "streaming"}, plus={"gen": 1}) for _ in range(2)] == [1, 0]
    assert Turn.objects.get(pk=talk[1].pk).gen == 1


def test_a_statement_says_how_many_rows_it_touched():
    for _ in range(2):
        reservation().save()
    table = Reservation._meta.db_table
    assert rows.execute(Reservation, f"UPDATE {table} SET amount_micros = %s WHERE state = %s", [7, "held"]) == 2
    assert rows.execute(Reservation, f"UPDATE {table} SET amount_micros = %s WHERE state = %s", [7, "settled"]) == 0
    assert set(Reservation.objects.values_list("amount_micros", flat=True)) == {7}


# --- What the database refuses ----------------------------------------------------------------------------------------


@both_ways
@of_every_model
def test_a_duplicate_is_an_integrity_error(model: type[Model]):
    row = EMPTY[model]()
    rows.insert(row)
    before = values(model._default_manager.get())
    again = model(**given_values(row))
    with pytest.raises(IntegrityError):
        rows.insert(again)
    assert values(model._default_manager.get()) == before
    assert again._state.adding


@both_ways
def test_a_number_that_is_taken_is_an_integrity_error(talk: list[Turn]):
    with pytest.raises(IntegrityError):
        rows.insert(turn(conversation_id=talk[0].conversation_id, seq=3))
    with pytest.raises(IntegrityError):
        rows.update(Turn, {"pk": talk[0].pk}, {"seq": 3})
    assert Turn.objects.get(pk=talk[0].pk).seq == 1


@both_ways
def test_what_a_constraint_forbids_is_an_integrity_error():
    month = period(reserved_micros=1)
    rows.insert(month)
    for refused in (
        lambda: rows.update(UsagePeriod, same(month), {}, plus={"reserved_micros": -2}),
        lambda: rows.insert(period(used_micros=-1)),
        lambda: rows.insert(reservation(amount_micros=-1)),
        lambda: rows.insert(conversation(title=None)),
    ):
        with pytest.raises(IntegrityError):
            refused()
    assert UsagePeriod.objects.get(**same(month)).reserved_micros == 1


@needs_transactions
@pytest.mark.parametrize("model", [Turn, Reservation], ids=lambda model: model.__name__)
def test_what_is_written_in_a_transaction_that_fails_is_gone(model: type[Model]):
    row, kept = EMPTY[model](), EMPTY[model]()
    kept.save()
    field = "gen" if model is Turn else "amount_micros"
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=router.db_for_write(model)):
        rows.insert(row)
        rows.update(model, {"pk": kept.pk}, {field: 77})
        assert rows.find(model, pk=row.pk) == row
        raise ZeroDivisionError
    assert rows.find(model, pk=row.pk) is None
    assert getattr(model._default_manager.get(), field) != 77


@needs_transactions
def test_after_a_refusal_in_an_inner_transaction_the_outer_one_goes_on():
    row = turn()
    with transaction.atomic(using="history"):
        rows.insert(row)
        with pytest.raises(IntegrityError), transaction.atomic(using="history"):
            rows.insert(turn(pk=row.pk))
        rows.insert(turn())
    assert Turn.objects.count() == 2


@needs_transactions
@both_ways
@pytest.mark.parametrize("model", [Turn, Reservation], ids=lambda model: model.__name__)
def test_after_an_error_of_the_orm_a_transaction_is_refused(model: type[Model]):
    row = EMPTY[model]()
    row.save()
    for statement in (
        lambda: rows.find(model, pk=row.pk),
        lambda: rows.insert(row),
        lambda: rows.update(model, {"pk": row.pk}, {"created_at": IN_LIMA}),
    ):
        with transaction.atomic(using=router.db_for_write(model)):
            with pytest.raises(IntegrityError):
                row.save(force_insert=True)
            with pytest.raises(TransactionManagementError):
                statement()


# --- Statements are seen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [pytest.param(Turn, marks=needs_transactions), Reservation], ids=lambda model: model.__name__
)
def test_statements_are_counted(model: type[Model], django_assert_num_queries: Callable[..., Any]):
    alias = router.db_for_write(model)
    row = EMPTY[model]()
    with django_assert_num_queries(4, using=alias), CaptureQueriesContext(connections[alias]) as captured:
        rows.insert(row)
        rows.find(model, pk=row.pk)
        rows.select(model, {"pk": (row.pk,)})
        rows.update(model, {"pk": row.pk}, {"created_at": IN_LIMA})
    assert [query["sql"].split()[0] for query in captured] == ["INSERT", "SELECT", "SELECT", "UPDATE"]


@of_every_model
def test_whether_there_is_sql_depends_on_the_store(model: type[Model]):
    assert rows.speaks_sql(model) is (STORES != "mongodb" or model in BILLING)


# --- Any row ----------------------------------------------------------------------------------------------------------


def anything(field: "Field[Any, Any]") -> st.SearchStrategy[Any]:
    """Return whatever this field can hold on every store."""
    moments = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(9999, 12, 30)).map(  # noqa: DTZ001  UTC is said next
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=dt.UTC)
    )
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=field.max_length or 60)
    found: st.SearchStrategy[Any] = {
        "UUIDField": st.uuids(),
        "BigIntegerField": st.integers(-GREATEST - 1, GREATEST),
        "IntegerField": st.integers(-(2**31), 2**31 - 1),
        "PositiveIntegerField": st.integers(0, 2**31 - 1),
        "SmallIntegerField": st.integers(-(2**15), 2**15 - 1),
        "CharField": texts,
        "TextField": texts,
        "BinaryField": st.binary(max_size=60),
        "BooleanField": st.booleans(),
        "DateTimeField": moments,
    }[field.get_internal_type()]
    return st.none() | found if field.null else found


def anything_in(model: type[Model], *without: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = [
        field
        for field in model._meta.concrete_fields
        if not field.is_relation and field.attname not in {"id", *without}
    ]
    return st.fixed_dictionaries({field.attname: anything(field) for field in fields})


FIELDS = st.one_of(
    st.tuples(st.just(Turn), anything_in(Turn, "conversation_id")),
    st.tuples(st.just(Conversation), anything_in(Conversation)),
    st.tuples(st.just(UsageRecord), anything_in(UsageRecord, "cost_micros", "spent_micros")),
)


@hypothesis.settings(max_examples=60)
@given(FIELDS)
def test_any_row_that_is_inserted_is_read_equal_by_the_orm(drawn: tuple[type[Model], dict[str, Any]]):
    model, fields = drawn
    row = EMPTY[model](**fields)
    rows.insert(row)
    assert given_values(model._default_manager.get(**same(row))) == given_values(row)


@hypothesis.settings(max_examples=60)
@given(FIELDS)
def test_any_row_of_the_orm_is_read_equal(drawn: tuple[type[Model], dict[str, Any]]):
    model, fields = drawn
    row = EMPTY[model](**fields)
    row.save(force_insert=True)
    assert values(rows.find(model, **same(row))) == values(model._default_manager.get(pk=row.pk))
    assert given_values(row) == given_values(rows.find(model, pk=row.pk))  # type: ignore[arg-type]


@pytest.mark.skipif(STORES == "mongodb", reason="it has no transactions")
@pytest.mark.parametrize("model", [Turn, Reservation])
def test_after_an_error_a_transaction_is_refused(model: type[Model]):
    row = EMPTY[model]()
    row.save()
    with transaction.atomic(using=router.db_for_write(model)):
        with pytest.raises(IntegrityError):
            rows.insert(row)
        with pytest.raises(TransactionManagementError):
            model._default_manager.count()
        with pytest.raises(TransactionManagementError):
            rows.find(model, pk=row.pk)


@pytest.mark.parametrize("where", [{"parent_id": None}, {"pk": ()}, {"parent_id": (new_id(), None)}])
def test_what_means_something_else_in_sql_is_no_condition(where: dict[str, Any]):
    with pytest.raises(ValueError, match="equals nothing in SQL"):
        rows.select(Turn, where)
    with pytest.raises(ValueError, match="equals nothing in SQL"):
        rows.select_values(Turn, ("pk",), where)
    with pytest.raises(ValueError, match="equals nothing in SQL"):
        rows.update(Turn, where, {"gen": 1})


def test_no_guard_is_an_assert_that_python_leaves_out_when_told_to_optimize():
    tree = ast.parse(Path(rows.__file__).read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


# --- Fields that fill themselves --------------------------------------------------------------------------------------


@contextmanager
def a_table(**fields: "Field[Any, Any]") -> Iterator[type[Model]]:
    """Make a model of billing with these fields, and its table."""
    with isolate_apps("billing"):
        names = {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "billing"})}
        model: type[Model] = type("Dated", (Model,), {**names, **fields})
    with connections["default"].schema_editor() as editor:
        editor.create_model(model)
    try:
        yield model
    finally:
        with connections["default"].schema_editor() as editor:
            editor.delete_model(model)


def test_a_row_that_is_inserted_has_the_time_its_field_sets_by_itself():
    with a_table(created_at=models.DateTimeField(auto_now_add=True)) as model:
        begun = timezone.now()
        row: Any = model()
        rows.insert(row)
        assert begun <= row.created_at <= timezone.now()
        assert model._default_manager.get().created_at == row.created_at  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "field", [models.DateTimeField(auto_now=True), models.IntegerField(db_default=7)], ids=["auto_now", "db_default"]
)
def test_a_model_with_a_field_that_would_be_left_out_is_refused(field: "Field[Any, Any]"):
    with a_table(changed=field.clone()) as model:
        for statement in (
            lambda: rows.insert(model()),
            lambda: rows.update(model, {"pk": 1}, {}, plus={"id": 1}),
            lambda: rows.find(model, pk=1),
        ):
            with pytest.raises(ValueError, match="Dated.changed has auto_now or db_default"):
                statement()


# --- What statements return -------------------------------------------------------------------------------------------


@pytest.mark.skipif(STORES == "mongodb", reason="it has no SQL")
@both_ways
def test_an_update_returns_the_rows_it_changed_as_they_are_then():
    held, other = reservation(amount_micros=7), reservation(amount_micros=8)
    for row in (held, other):
        row.save()
    [found] = rows.update_and_fetch(Reservation, {"pk": held.pk, "state": "held"}, {"state": "settled"})
    assert (found.pk, found.state, found.amount_micros) == (held.pk, "settled", 7)
    assert rows.update_and_fetch(Reservation, {"pk": held.pk, "state": "held"}, {"state": "settled"}) == []
    assert Reservation.objects.get(pk=other.pk).state == "held"
