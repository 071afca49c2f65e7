"""A DomainError as an error of a form: the page shows the sentence and keeps what was typed."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ValidationError
from django.forms import BaseForm

from core.errors import DomainError


class Refused(ValidationError):
    def __init__(self, error: DomainError) -> None:
        super().__init__(str(error.message), code=error.code)
        self.error = error


@contextmanager
def shown_in_form() -> Iterator[None]:
    """Turn a DomainError into an error of the form that is being cleaned."""
    try:
        yield
    except DomainError as error:
        raise Refused(error) from error


def find_refusal(form: BaseForm) -> DomainError | None:
    """Return why the form was refused, where that was no fault of what was typed."""
    for errors in form.errors.as_data().values():
        for error in errors:
            if isinstance(error, Refused):
                return error.error
    return None
