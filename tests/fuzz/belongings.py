"""One of everything a member can own, by what the URL map calls its id; and a row of every table of the admin."""

import datetime as dt
import secrets
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.contrib import admin
from django.core.files.base import ContentFile
from django.db.models import Field, Model
from django.test import Client
from django.utils import timezone

from accounts import devices
from accounts.keys import KeyTerms, make_key, revoke_key
from accounts.models import TokenFamily, User
from accounts.tokens import begin_family
from billing.entitlements import account_of
from billing.models import Payment, Price, Purchase, Subscription
from chat.llm.providers.base import NO_OPTIONS, Message
from chat.shown.fragments import description_of
from chat.shown.staff_reading import begin_reading
from chat.turns.asked import Asked
from chat.turns.completing import Completion, open_completion
from history import access, sharing, temporary, trash
from history.folders import create_folder
from history.models import Export, Import, Turn, new_id
from history.sharing import Terms
from history.transfer.states import part, transfer_storage
from tests.chat.asking import ask, finished
from tests.chat.attaching import attached, kept
from tests.chat.batching import line
from tests.chat.batching import send as send_batch
from tests.fuzz.people import PASSWORD

Ids = dict[str, tuple[str, ...]]


def own_everything(user: User, staff: User) -> Ids:
    """Give a member one of everything, in each state that matters; return their ids by the parameter of the URL map
    that takes them. `staff` reads one of the conversations."""
    return {
        **_conversations_of(user, staff),
        **_ways_in_of(user),
        **_purchases_of(user),
        "batch_id": (str(send_batch(user, [line("a")], start=False).pk),),
        "import_id": (str(Import.objects.create(owner_id=user.pk, key=uuid4().hex).pk),),
        "export_id": (_export_of(user), str(Export.objects.create(owner_id=user.pk, key=uuid4().hex).pk)),
    }


def _conversations_of(user: User, staff: User) -> Ids:
    folder = create_folder(user.pk, name="Cocina")
    image = attached(user)
    over, thrown, is_open = finished(user), finished(user), ask(user, folder_id=folder.pk, attachments=(image.pk,))
    Turn.objects.filter(pk=over.pk).update(answer="Hola.")  # or there were nothing to share
    conversation = access.access_conversation(user.pk, over.conversation_id)
    live, revoked = (sharing.create_share(conversation, Terms(), description_of, share_id=new_id()) for _ in range(2))
    dead_link = sharing.token_of(revoked)
    sharing.revoke_share(revoked)
    reading = begin_reading(conversation.pk, staff=staff, reason="Pide ayuda.", peer="192.0.2.9")
    passing = temporary.begin_conversation(user.pk)
    in_passing = ask(user, turn_id=temporary.new_turn_id(passing.pk), conversation_id=passing.pk)
    messages = (Message("user", "say:hola"),)
    by_program = open_completion(
        user.pk, Completion(turn_id=temporary.new_completion_id(), asked=Asked(messages, NO_OPTIONS), model="scripted")
    ).turn
    trash.trash_conversations(user.pk, [thrown.conversation_id])
    turns = (over, is_open, thrown, in_passing, by_program)
    return {
        "conversation_id": tuple(str(turn.conversation_id) for turn in turns),
        "turn_id": tuple(str(turn.pk) for turn in turns),
        "folder_id": (str(folder.pk),),
        "attachment_id": (str(image.pk), str(kept(user, b"hola", "a.txt").pk)),
        "share_id": (str(live.pk),),
        "dead_link": (dead_link,),
        "live_link": (sharing.token_of(live),),
        "reading_id": (str(reading.pk),),
    }


def _ways_in_of(user: User) -> Ids:
    terms = KeyTerms(name="Job", scopes=("chat", "history", "usage"))
    key, revoked = (make_key(user, terms, peer="", key_id=uuid4())[0] for _ in range(2))
    revoke_key(revoked, peer="")
    browser = Client()
    browser.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    browser.get("/settings/devices/")
    session = devices.list_sessions(user, None)[0]
    begin_family(user)
    passkey, app = (
        Authenticator.objects.create(user=user, type=kind, data={"name": "x", "credential": {}, "secret": ""})
        for kind in (Authenticator.Type.WEBAUTHN, Authenticator.Type.TOTP)
    )
    return {
        "key_id": (str(key.pk), str(revoked.pk)),
        "session_id": (session.id,),
        "family_id": (str(TokenFamily.objects.get(user=user).pk),),
        "account_id": (str(SocialAccount.objects.create(user=user, provider="openid", uid=uuid4().hex).pk),),
        "authenticator_id": (str(passkey.pk), str(app.pk)),
    }


def _purchases_of(user: User) -> Ids:
    account, price, now = account_of(user.pk), Price.objects.order_by("pk")[0], timezone.now()
    purchases = [
        Purchase.objects.create(key=uuid4().hex, account=account, price=price, kind="subscription", url=url)
        for url in ("https://pay.test/", "")
    ]
    paid_until = now + dt.timedelta(days=20)
    subscription = Subscription.objects.create(
        account=account,
        gateway=price.gateway,
        reference=uuid4().hex,
        kind="subscription",
        status="active",
        price=price,
        plan=price.plan,
        anchor=now,
        access_from=now,
        paid_until=paid_until,
        access_until=paid_until,
        observed_at=now,
    )
    payment = Payment.objects.create(
        subscription=subscription,
        gateway=price.gateway,
        reference=uuid4().hex,
        price=price,
        status="paid",
        amount_minor=2_000,
        currency="USD",
        paid_at=now,
        period_start=now,
        period_end=paid_until,
    )
    return {"purchase_key": tuple(one.key for one in purchases), "payment_id": (str(payment.pk),)}


def _export_of(user: User) -> str:
    row = Export.objects.create(owner_id=user.pk, key=uuid4().hex, status=Export.Status.READY, size=3)
    transfer_storage().save(part(row, "zip"), ContentFile(b"zip"))
    return str(row.pk)


# --- Ids there are not ------------------------------------------------------------------------------------------------


def missing_like(value: str) -> str:
    """Return an id that looks like one there is, and never was one."""
    if value.isdecimal():
        return str(int(value) + 10**9)
    try:
        pk = UUID(value)
    except ValueError:
        return secrets.token_hex(len(value))[: len(value)]
    if "-" not in value:
        return uuid4().hex
    return str(temporary.new_completion_id() if temporary.is_temporary(pk) else new_id())


# --- Rows of the admin ------------------------------------------------------------------------------------------------


def fill_admin() -> None:
    """See that every table of the admin has a row."""
    for model in admin.site._registry:
        if not model._default_manager.exists():
            row_of(model)


def row_of(model: type[Model]) -> Any:
    """Return a row of a table: the first, else one of just what it must have."""
    if found := model._default_manager.order_by("pk").first():
        return found
    made = model(**dict(_least_of(model)))
    model._default_manager.bulk_create([made])  # what saving does besides is not asked for
    return made


def _least_of(model: type[Model]) -> Iterator[tuple[str, Any]]:
    for field in model._meta.concrete_fields:
        if field.is_relation and not field.null:
            yield field.name, row_of(field.related_model)
        elif not (field.null or field.has_default() or field.auto_created or field.get_internal_type() == "AutoField"):
            yield field.name, _least_value(field)


def _least_value(field: Any) -> Any:
    assert isinstance(field, Field)
    if field.choices:
        return next(iter(field.flatchoices))[0]
    kind = field.get_internal_type()
    by_kind: dict[str, Any] = {"DateTimeField": timezone.now(), "DateField": timezone.localdate(), "JSONField": {}}
    by_kind |= {"BooleanField": False, "UUIDField": uuid4(), "EmailField": f"{uuid4().hex[:8]}@example.com"}
    if kind in by_kind:
        return by_kind[kind]
    return uuid4().hex[: field.max_length or 32] if kind in ("CharField", "TextField", "SlugField", "URLField") else 1
