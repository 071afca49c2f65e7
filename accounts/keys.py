"""API keys: how one is made, what a program with one may do, and how it is revoked (docs/adr/0024-api-keys.md)."""

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import IntegrityError, transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_lazy
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from structlog.contextvars import bind_contextvars

from accounts import events, limits
from accounts.admission import admission_by_key, find_admitted
from accounts.limits import Act
from accounts.models import ApiKey, User
from accounts.origins import may_come_from
from accounts.signals import key_revoked
from core import rows
from core.errors import Conflict, DomainError, NotFound
from core.mail import send_or_queue

MAX_KEYS = 50
"""Keys of one person that are not revoked."""
USE_NOTED_EVERY = dt.timedelta(minutes=1)
ANY_LANGUAGE = "*"
"""What Node.js says where its program says nothing."""
ANY = "any"
"""For `open_to_keys`: every key may, whatever its scopes."""

_SHAPE = re.compile(r"ttl_[0-9a-f]{8}_[\w-]{43}", re.ASCII)
_BEGINNING = "ttl_"

View = TypeVar("View", bound=Callable[..., Any])


class TooManyKeys(DomainError):
    code = "too_many_keys"
    status = 409
    message = gettext_lazy("You have as many keys as there can be. Revoke one first.")


class NothingToKeep(DomainError):
    code = "nothing_to_keep"
    message = gettext_lazy("A key that may not ask has no conversations to keep. Let it ask, or let it keep none.")


class KeyNotAllowed(DomainError):
    """A key may not do that at all, or has not the scope for it."""

    code = "key_not_allowed"
    status = 403
    message = gettext_lazy("No API key may do that. Log in, or do it on the pages of this site.")


class OriginNotAllowed(DomainError):
    code = "origin_not_allowed"
    status = 403
    message = gettext_lazy("This API key is not for pages of that site. Its owner says which it is for.")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key may do, as its owner says: empty `model_ids` are all models, None is no limit. `origins` are as
    `parse_origins` returns them."""

    name: str
    scopes: tuple[str, ...]
    model_ids: tuple[str, ...] = ()
    monthly_credits: int | None = None
    requests_per_minute: int | None = None
    origins: tuple[str, ...] = ()
    keeps_conversations: bool = False
    expires_at: dt.datetime | None = None


class KeyAuthentication(BaseAuthentication):
    """Lets in whoever has a key that is good, where the view is open to keys with such a scope, and nowhere else."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        """Return whose key it is, with its row; None where the request has none. Raises AuthenticationFailed, or
        KeyNotAllowed, or OriginNotAllowed."""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret.startswith(_BEGINNING):
            return None
        key = rows.find(ApiKey, digest=_digest(secret)) if _SHAPE.fullmatch(secret) else None
        user = find_admitted(admission_by_key(key)) if key else None
        if key is None or user is None:
            raise AuthenticationFailed(gettext("That API key is not valid, or not any more."), code="key_not_valid")
        bind_contextvars(user_id=user.pk)
        _use_language_of(user, request)
        if not may_come_from(key, request._request):
            raise OriginNotAllowed
        _check_scope(request, key)
        _note_use(key)
        return user, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


def open_to_keys(**scopes: str | tuple[str, ...]) -> Callable[[View], View]:
    """Open a view of the API to programs with a key: by method, the scope each needs, or those of which one will do. A
    view without is closed to them."""

    def opened(view: View) -> View:
        view.cls.key_scopes = scopes  # type: ignore[attr-defined]  # REST framework's class behind the view
        return view

    return opened


def came_with_key(request: Request) -> bool:
    return isinstance(request.auth, ApiKey)


def key_of(request: Request) -> ApiKey | None:
    """Return the key that a request came with; None where a person came, or a program that they have logged in."""
    return request.auth if isinstance(request.auth, ApiKey) else None


def make_key(user: User, terms: KeyTerms, *, peer: str, key_id: UUID) -> tuple[ApiKey, str]:
    """Make a key; return its row and the key itself, which nobody can ask for again. Raises NothingToKeep, TooManyKeys,
    RateLimited, Conflict for an id there is, and NotFound where whatever let the user in has ended."""
    if terms.keeps_conversations and ApiKey.Scope.CHAT not in terms.scopes:
        raise NothingToKeep
    limits.count_of_member(Act.API_KEY, user.pk)
    prefix = _BEGINNING + secrets.token_hex(4)
    secret = f"{prefix}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        pk=key_id,
        user=user,
        name=terms.name,
        prefix=prefix,
        digest=_digest(secret),
        scopes=list(terms.scopes),
        model_ids=list(terms.model_ids),
        monthly_credits=terms.monthly_credits,
        requests_per_minute=terms.requests_per_minute,
        origins=" ".join(terms.origins),
        keeps_conversations=terms.keeps_conversations or None,
        expires_at=terms.expires_at,
    )
    try:
        with transaction.atomic():
            # Locked: a password that is changed at this moment ends this key too, or has ended what asks for it.
            if not User.objects.select_for_update().filter(pk=user.pk, seal=user.seal, is_active=True).first():
                raise NotFound
            if ApiKey.objects.filter(user=user, revoked_at=None).count() >= MAX_KEYS:
                raise TooManyKeys
            key.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict from error
    events.record("api_key_made", peer=peer, user_id=user.pk, key_id=str(key.pk))
    _tell_by_mail(user, key)
    return key, secret


def list_keys(user_id: int) -> list[ApiKey]:
    """Return the keys that are not revoked, the latest first."""
    return list(ApiKey.objects.filter(user_id=user_id, revoked_at=None).order_by("-created_at"))


def key_names(user_id: int) -> dict[str, str]:
    """Return the names of all keys of the user, revoked ones too, by their ids."""
    return {str(pk): name for pk, name in ApiKey.objects.filter(user_id=user_id).values_list("pk", "name")}


def access_key(user_id: int, key_id: UUID) -> ApiKey:
    """Return a key of the user that is not revoked; raises NotFound."""
    key = rows.find(ApiKey, pk=key_id, user_id=user_id)
    if key is None or key.revoked_at is not None:
        raise NotFound
    return key


def revoke_key(key: ApiKey, *, peer: str) -> None:
    """End a key: no request is let in with it any more, and what is open with it is ended."""
    if rows.update(ApiKey, {"pk": key.pk, "revoked_at__isnull": True}, {"revoked_at": timezone.now()}):
        key_revoked.send(ApiKey, user_id=key.user_id)
        events.record("api_key_revoked", peer=peer, user_id=key.user_id, key_id=str(key.pk))


def _use_language_of(user: User, request: Request) -> None:
    """Answer a program that asks for no language, as most do, in its owner's: they are who reads it."""
    if request.headers.get("Accept-Language", ANY_LANGUAGE) == ANY_LANGUAGE:
        translation.activate(user.locale)


def _check_scope(request: Request, key: ApiKey) -> None:
    """Raise KeyNotAllowed unless the view that is asked is open to such a key."""
    view = (request.parser_context or {}).get("view")
    needed = getattr(view, "key_scopes", {}).get("GET" if request.method == "HEAD" else request.method)
    if needed is None:
        if request.method not in getattr(view, "allowed_methods", ()):
            return  # the view says that it has no such method
        raise KeyNotAllowed
    scopes = (needed,) if isinstance(needed, str) else needed
    if needed != ANY and not set(scopes) & set(key.scopes):
        sentence = gettext("This API key may not do that: it is without the scope “%(scope)s”.")
        raise KeyNotAllowed(sentence % {"scope": scopes[0]})


def _note_use(key: ApiKey) -> None:
    now = timezone.now()
    if key.last_used_at is None or key.last_used_at < now - USE_NOTED_EVERY:
        rows.update(ApiKey, {"pk": key.pk}, {"last_used_at": now})


def _tell_by_mail(user: User, key: ApiKey) -> None:
    """Tell the mailbox that there is a new key: who made it may not be who the account belongs to."""
    with translation.override(user.locale), timezone.override(user.zone):
        context = {"key": key, "site_name": settings.SITE_NAME, "keys_url": settings.SITE_URL + reverse("keys")}
        text = render_to_string("accounts/mail/key_made.txt", context).strip()
    subject, _, body = text.partition("\n")
    send_or_queue(EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [user.email]))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
