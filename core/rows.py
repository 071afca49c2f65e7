"""Reads and writes rows with plain SQL, for the token path: 60 µs of processor where a queryset takes 500.

The models, fields and errors are Django's; there are no signals, joins or expressions. The text of each statement is
built once a process. MongoDB has no SQL: there, every function uses a queryset.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, cast

from django.db import connections, router
from django.db.models import F, Field, Model

M = TypeVar("M", bound=Model)

Where = Mapping[str, Any]
"""Conditions that must all hold, by field: equal to the value, equal to one of a tuple's (which is not empty), as
`<field>__lt` less than it, as `<field>__gt` more, or, as `<field>__isnull`, which is True, without a value. None equals
nothing in SQL: it is a ValueError, as is an empty tuple."""


def find(model: type[M], **where: Any) -> M | None:
    """Return one row, or None."""
    matching = select(model, where, limit=1)
    return matching[0] if matching else None


def select(model: type[M], where: Where, *, order_by: str = "", limit: int | None = None) -> list[M]:
    """Return the rows; `order_by` is a field, with "-" before it for descending order."""
    table = _table(model)
    _check(where)
    if not table.speaks_sql:
        rows = model._default_manager.filter(**_lookups(where))
        return list((rows.order_by(order_by) if order_by else rows)[:limit])
    statement = table.select(_conditions(where), order_by, is_limited=limit is not None)
    parameters = table.parameters(where)
    if limit is not None:
        parameters.append(limit)
    return [table.row(values) for values in table.execute(statement, parameters).fetchall()]


def select_values(model: type[Model], names: tuple[str, ...], where: Where, *, order_by: str = "") -> list[Any]:
    """Return a tuple of these fields' values for each row that `select` would return."""
    table = _table(model)
    _check(where)
    if not table.speaks_sql:
        rows = model._default_manager.filter(**_lookups(where)).values_list(*names)
        return list(rows.order_by(order_by) if order_by else rows)
    statement = table.select(_conditions(where), order_by, is_limited=False, names=names)
    converters = table.converters_of(names)
    found = table.execute(statement, table.parameters(where)).fetchall()
    return [tuple(table.converted(values, converters)) for values in found]


def insert(row: Model) -> None:
    """Write a new row, as `save` would; a key that the database assigns stays None. Raises IntegrityError."""
    table = _table(type(row))
    if not table.speaks_sql:
        row.save(force_insert=True)
        return
    connection = table.connection
    values = [field.get_db_prep_save(field.pre_save(row, add=True), connection) for field in table.insertable]
    table.execute(table.insert, values)
    row._state.adding, row._state.db = False, table.alias


def update(
    model: type[Model], where: Where, values: Mapping[str, Any], *, plus: Mapping[str, int] | None = None
) -> int:
    """Set `values` and add `plus`; return how many rows matched."""
    table, plus = _table(model), plus or {}
    _check(where)
    if not table.speaks_sql:
        sums = {name: F(name) + number for name, number in plus.items()}
        return model._default_manager.filter(**_lookups(where)).update(**values, **sums)
    connection = table.connection
    parameters = [table.fields_by_name[name].get_db_prep_save(value, connection) for name, value in values.items()]
    parameters += [*plus.values(), *table.parameters(where)]
    return int(table.execute(table.update(tuple(values), tuple(plus), _conditions(where)), parameters).rowcount)


def update_and_fetch(model: type[M], where: Where, values: Mapping[str, Any]) -> list[M]:
    """Set `values` and return the rows that matched, as they are then. For SQL alone."""
    table = _table(model)
    _check(where)
    connection = table.connection
    parameters = [table.fields_by_name[name].get_db_prep_save(value, connection) for name, value in values.items()]
    parameters += table.parameters(where)
    statement = table.update_and_fetch(tuple(values), _conditions(where))
    return [table.row(found) for found in table.execute(statement, parameters).fetchall()]


def execute(model: type[Model], statement: str, parameters: Sequence[Any]) -> int:
    """Run a statement with "%s" for each parameter on the database of `model`; return how many rows it changed."""
    return int(_table(model).execute(statement, parameters).rowcount)


def fetch(model: type[Model], statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement as `execute` does; return what it returns, as the driver has it."""
    return [tuple(values) for values in _table(model).execute(statement, parameters).fetchall()]


def fetch_rows(model: type[M], statement: str, parameters: Sequence[Any]) -> list[M]:
    """Run a SELECT of all columns of `model`, in the order of its fields; return the rows. For SQL alone."""
    table = _table(model)
    return [table.row(values) for values in table.execute(statement, parameters).fetchall()]


def speaks_sql(model: type[Model]) -> bool:
    """Return whether the rows are in an SQL database; one that is has transactions."""
    return _table(model).speaks_sql


Condition = tuple[str, Literal["=", "<", ">", "IN", "IS NULL"], int]
"""A field, its comparison, and the number of values: all of a condition but the values."""


Converter = tuple[int, Any, Any]
"""The place of a column among those that were read, the function that makes the field's value of the driver's, and the
column."""


class _Table:
    """The statements for the table of one model."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.alias: str = router.db_for_write(model)
        self.fields: list[Field[Any, Any]] = list(model._meta.concrete_fields)
        _check_fields(self.fields)
        self.speaks_sql: bool = self.connection.vendor != "mongodb"
        if not self.speaks_sql:
            return
        self.fields_by_name = {name: field for field in self.fields for name in (field.name, field.attname)}
        self.fields_by_name["pk"] = self.fields_by_name[model._meta.pk.attname]
        self._names = tuple(field.attname for field in self.fields)
        self._converters = self.converters_of(self._names)
        self._table = self._quote(model._meta.db_table)
        self._columns = ", ".join(map(self.column, self._names))
        self.insertable = [field for field in self.fields if field is not model._meta.auto_field]
        columns = ", ".join(self.column(field.name) for field in self.insertable)
        placeholders = ", ".join(["%s"] * len(self.insertable))
        self.insert = f"INSERT INTO {self._table} ({columns}) VALUES ({placeholders})"  # noqa: S608  names of ours

    @property
    def connection(self) -> Any:
        """This thread's connection."""
        return connections[self.alias]

    def execute(self, statement: str, parameters: Sequence[Any]) -> Any:
        """Run a statement and return the driver's own cursor: Django's adds more time than SQLite itself takes. While
        statements are logged, Django's is used."""
        connection = self.connection
        try:
            if connection.queries_logged:
                cursor = connection.cursor()
                cursor.execute(statement, parameters)
                return cursor
            connection.ensure_connection()
            connection.validate_no_broken_transaction()
            if connection.vendor == "postgresql":
                return connection.execute_directly(statement, parameters)
            with connection.wrap_database_errors:
                return connection.connection.execute(self._with_driver_placeholders(statement), parameters)
        except Exception as error:  # as `transaction.mark_for_rollback_on_error` does, which costs something each time
            if connection.in_atomic_block:
                connection.needs_rollback = True
                connection.rollback_exc = error
            raise

    @cache  # noqa: B019  one _Table a model, for the life of the process
    def _with_driver_placeholders(self, statement: str) -> str:
        return statement.replace("%s", "?")  # SQLite's

    def column(self, name: str) -> str:
        return self._quote(cast("str", self.fields_by_name[name].column))

    @cache  # noqa: B019  one _Table a model, for the life of the process
    def select(
        self, conditions: tuple[Condition, ...], order_by: str, *, is_limited: bool, names: tuple[str, ...] = ()
    ) -> str:
        columns = ", ".join(map(self.column, names)) or self._columns
        statement = f"SELECT {columns} FROM {self._table} WHERE {self._where(conditions)}"  # noqa: S608
        if order_by:
            statement += f" ORDER BY {self.column(order_by.removeprefix('-'))}"
            statement += " DESC" if order_by.startswith("-") else ""
        return f"{statement} LIMIT %s" if is_limited else statement

    @cache  # noqa: B019  the same
    def update(self, names: tuple[str, ...], added: tuple[str, ...], conditions: tuple[Condition, ...]) -> str:
        assignments = [f"{self.column(name)} = %s" for name in names]
        assignments += [f"{column} = {column} + %s" for column in map(self.column, added)]
        return f"UPDATE {self._table} SET {', '.join(assignments)} WHERE {self._where(conditions)}"  # noqa: S608

    @cache  # noqa: B019  the same
    def update_and_fetch(self, names: tuple[str, ...], conditions: tuple[Condition, ...]) -> str:
        return f"{self.update(names, (), conditions)} RETURNING {self._columns}"

    def parameters(self, where: Where) -> list[Any]:
        connection = self.connection
        parameters: list[Any] = []
        for name, value in where.items():
            if name.endswith("__isnull"):
                continue
            field = self.fields_by_name[name.removesuffix("__lt").removesuffix("__gt")]
            for single in value if isinstance(value, tuple) else (value,):
                parameters.append(field.get_db_prep_value(single, connection))
        return parameters

    def row(self, values: Sequence[Any]) -> Any:
        return self.model.from_db(self.alias, self._names, self.converted(values, self._converters))

    def converted(self, values: Sequence[Any], converters: list[Converter]) -> list[Any]:
        """Return the driver's values as the fields have them."""
        converted = list(values)
        connection = self.connection
        for index, converter, column in converters:
            if converted[index] is not None:
                converted[index] = converter(converted[index], column, connection)
        return converted

    @cache  # noqa: B019  the same
    def converters_of(self, names: tuple[str, ...]) -> list[Converter]:
        return [
            (index, converter, column)
            for index, field in enumerate(self.fields_by_name[name] for name in names)
            for column in (field.get_col(self.model._meta.db_table),)
            for converter in (*self.connection.ops.get_db_converters(column), *field.get_db_converters(self.connection))
        ]

    def _where(self, conditions: tuple[Condition, ...]) -> str:
        return " AND ".join(self._condition(*condition) for condition in conditions)

    def _condition(self, name: str, comparison: str, count: int) -> str:
        if comparison == "IN":
            return f"{self.column(name)} IN ({', '.join(['%s'] * count)})"
        return f"{self.column(name)} {comparison}" + " %s" * count

    def _quote(self, name: str) -> str:
        quoted: str = self.connection.ops.quote_name(name)
        return quoted


@cache
def _table(model: type[Model]) -> _Table:
    return _Table(model)


def _check(where: Where) -> None:
    for name, value in where.items():
        if value is None or value == () or (isinstance(value, tuple) and None in value):
            raise ValueError(f"{name} is compared with {value!r}, which equals nothing in SQL.")


def _check_fields(fields: Sequence["Field[Any, Any]"]) -> None:
    """Refuse what the functions above cannot do: set a time at every change, leave a value to the database."""
    for field in fields:
        if getattr(field, "auto_now", False) or field.has_db_default():
            raise ValueError(f"{field} has auto_now or db_default: `update` sets no time, `insert` writes every value.")


def _conditions(where: Where) -> tuple[Condition, ...]:
    return tuple(_condition(name, value) for name, value in where.items())


def _condition(name: str, value: Any) -> Condition:
    if isinstance(value, tuple):
        return name, "IN", len(value)
    if name.endswith("__isnull"):
        return name.removesuffix("__isnull"), "IS NULL", 0
    if name.endswith("__gt"):
        return name.removesuffix("__gt"), ">", 1
    return name.removesuffix("__lt"), "<" if name.endswith("__lt") else "=", 1


def _lookups(where: Where) -> dict[str, Any]:
    return {f"{name}__in" if isinstance(value, tuple) else name: value for name, value in where.items()}
