"""Addresses that people pass on."""

from django.conf import settings
from django.urls import reverse

from history import sharing
from history.models import SharedPage


def link_of(share: SharedPage) -> str:
    """Return the address of a shared page: whoever has it may open it."""
    return f"{settings.SITE_URL}{reverse('shared', args=[sharing.token_of(share)])}"
