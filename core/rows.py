"""Rows by plain statements, for the token path: a queryset costs 500 µs of processor where these cost 60.

The rows, fields and errors are the ORM's; there are no signals, joins or expressions. Each statement is written once a
process. MongoDB speaks no SQL and goes the ORM's way.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from django.db import connections, router, transaction
from django.db.models import F, Field, Model

M = TypeVar("M", bound=Model)

Where = Mapping[str, Any]
"""Equal values by field; a tuple, not an empty one, means one of them, and `<field>__lt` less. None is no value."""


def find(model: type[M], **where: Any) -> M | None:
    """Return one row, or None."""
    found = select(model, where, limit=1)
    return found[0] if found else None


def select(model: type[M], where: Where, *, order_by: str = "", limit: int | None = None) -> list[M]:
    """Return the rows; `order_by` is a field, with "-" before it for the greatest first."""
    table = _table(model)
    if not table.speaks_sql:
        rows = model._default_manager.filter(**_lookups(where))
        return list((rows.order_by(order_by) if order_by else rows)[:limit])
    statement = table.select(_shape(where), order_by, limit is not None)
    parameters = table.parameters(where)
    if limit is not None:
        parameters.append(limit)
    return [table.row(values) for values in table.execute(statement, parameters).fetchall()]


def insert(row: Model) -> None:
    """Write a new row as it is; a key the database counts stays None. Raises IntegrityError."""
    table = _table(type(row))
    if not table.speaks_sql:
        row.save(force_insert=True)
        return
    connection = table.connection
    values = [field.get_db_prep_save(getattr(row, field.attname), connection) for field in table.given]
    table.execute(table.insert, values)
    row._state.adding, row._state.db = False, table.alias


def update(
    model: type[Model], where: Where, values: Mapping[str, Any], *, plus: Mapping[str, int] | None = None
) -> int:
    """Set `values`, and count `plus` on; return how many rows there were."""
    table, plus = _table(model), plus or {}
    if not table.speaks_sql:
        counted = {name: F(name) + number for name, number in plus.items()}
        return model._default_manager.filter(**_lookups(where)).update(**values, **counted)
    connection = table.connection
    parameters = [table.named[name].get_db_prep_save(value, connection) for name, value in values.items()]
    parameters += [*plus.values(), *table.parameters(where)]
    return int(table.execute(table.update(tuple(values), tuple(plus), _shape(where)), parameters).rowcount)


def execute(model: type[Model], statement: str, parameters: Sequence[Any]) -> int:
    """Run a statement on the database of `model`, with "%s" for parameters; return how many rows it touched."""
    return int(_table(model).execute(statement, parameters).rowcount)


def speaks_sql(model: type[Model]) -> bool:
    """Return whether the rows are in an SQL database, which has transactions too."""
    return _table(model).speaks_sql


Condition = tuple[str, Literal["=", "<", "IN"], int]
"""A field, how it is compared, and with how many values."""


class _Table:
    """The statements of one model."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.alias: str = router.db_for_write(model)
        self.fields: list[Field[Any, Any]] = list(model._meta.concrete_fields)
        self.speaks_sql: bool = self.connection.vendor != "mongodb"
        if not self.speaks_sql:
            return
        self.named = {name: field for field in self.fields for name in (field.name, field.attname)}
        self.named["pk"] = self.named[model._meta.pk.attname]
        self._names = [field.attname for field in self.fields]
        self._converters = [
            (at, converter, column)
            for at, field in enumerate(self.fields)
            for column in (field.get_col(model._meta.db_table),)
            for converter in (
                *self.connection.ops.get_db_converters(column),
                *field.get_db_converters(self.connection),
            )
        ]
        self._table = self._quote(model._meta.db_table)
        self._columns = ", ".join(map(self.column, self._names))
        self.given = [field for field in self.fields if field is not model._meta.auto_field]
        given = ", ".join(self.column(field.name) for field in self.given)
        marks = ", ".join(["%s"] * len(self.given))
        self.insert = f"INSERT INTO {self._table} ({given}) VALUES ({marks})"  # noqa: S608  names of ours

    @property
    def connection(self) -> Any:
        """This thread's."""
        return connections[self.alias]

    def execute(self, statement: str, parameters: Sequence[Any]) -> Any:
        """Return the driver's own cursor. Django's does more for each statement than SQLite; it is used when
        statements are to be logged."""
        connection = self.connection
        with transaction.mark_for_rollback_on_error(using=self.alias):
            if connection.queries_logged:
                cursor = connection.cursor()
                cursor.execute(statement, parameters)
                return cursor
            connection.ensure_connection()
            connection.validate_no_broken_transaction()
            with connection.wrap_database_errors:
                return connection.connection.execute(self._in_dialect(statement), parameters)

    @cache  # noqa: B019  there are as many as there are models
    def _in_dialect(self, statement: str) -> str:
        return statement.replace("%s", "?") if self.connection.vendor == "sqlite" else statement

    def column(self, name: str) -> str:
        column = self.named[name].column
        assert column is not None
        return self._quote(column)

    @cache  # noqa: B019  there are as many as there are models
    def select(self, shape: tuple[Condition, ...], order_by: str, is_limited: bool) -> str:
        statement = f"SELECT {self._columns} FROM {self._table} WHERE {self._where(shape)}"  # noqa: S608
        if order_by:
            statement += f" ORDER BY {self.column(order_by.removeprefix('-'))}"
            statement += " DESC" if order_by.startswith("-") else ""
        return f"{statement} LIMIT %s" if is_limited else statement

    @cache  # noqa: B019
    def update(self, names: tuple[str, ...], counted: tuple[str, ...], shape: tuple[Condition, ...]) -> str:
        sets = [f"{self.column(name)} = %s" for name in names]
        sets += [f"{column} = {column} + %s" for column in map(self.column, counted)]
        return f"UPDATE {self._table} SET {', '.join(sets)} WHERE {self._where(shape)}"  # noqa: S608

    def parameters(self, where: Where) -> list[Any]:
        connection = self.connection
        found: list[Any] = []
        for name, value in where.items():
            field = self.named[name.removesuffix("__lt")]
            for one in value if isinstance(value, tuple) else (value,):
                found.append(field.get_db_prep_value(one, connection))
        return found

    def row(self, values: Sequence[Any]) -> Any:
        read = list(values)
        connection = self.connection
        for at, converter, column in self._converters:
            if read[at] is not None:
                read[at] = converter(read[at], column, connection)
        return self.model.from_db(self.alias, self._names, read)

    def _where(self, shape: tuple[Condition, ...]) -> str:
        return " AND ".join(
            f"{self.column(name)} IN ({', '.join(['%s'] * count)})"
            if comparison == "IN"
            else f"{self.column(name)} {comparison} %s"
            for name, comparison, count in shape
        )

    def _quote(self, name: str) -> str:
        quoted: str = self.connection.ops.quote_name(name)
        return quoted


@cache
def _table(model: type[Model]) -> _Table:
    return _Table(model)


def _shape(where: Where) -> tuple[Condition, ...]:
    assert all(value is not None and value != () for value in where.values()), "means something else in SQL"
    return tuple(
        (name, "IN", len(value))
        if isinstance(value, tuple)
        else (name.removesuffix("__lt"), "<" if name.endswith("__lt") else "=", 1)
        for name, value in where.items()
    )


def _lookups(where: Where) -> dict[str, Any]:
    return {f"{name}__in" if isinstance(value, tuple) else name: value for name, value in where.items()}
