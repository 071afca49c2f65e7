"""Sizes of files, as people read them."""

from django.template.defaultfilters import filesizeformat
from django.utils.formats import get_format


def readable_size(size_bytes: int) -> str:
    """Return a size in the active language, without a decimal that says nothing: 20 MB, 1.5 MB."""
    return str(filesizeformat(size_bytes)).replace(f"{get_format('DECIMAL_SEPARATOR')}0\xa0", "\xa0")
