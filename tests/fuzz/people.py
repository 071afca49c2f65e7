"""Who knocks: a visitor, a member, an operator; and what belongs to the member and to somebody else."""

from dataclasses import dataclass
from itertools import count
from uuid import UUID, uuid4

from allauth.account.models import EmailAddress, EmailConfirmationHMAC

from accounts.keys import KeyTerms, make_key
from accounts.models import User
from accounts.tokens import begin_family
from billing.models import BillingAccount, Plan
from billing.seeds import load_plans
from chat.llm.catalog import load_catalog
from chat.models import Batch, LanguageModel
from chat.shown.fragments import description_of
from core import caching
from core.redis_clients import sync_redis
from history import access, sharing
from history.folders import create_folder
from history.models import Export, Import, Transfer, Turn, new_id
from history.sharing import Terms
from tests.chat.asking import ask, finished
from tests.chat.attaching import kept
from tests.chat.live import session_cookie
from tests.conftest import SCRIPTED

PASSWORD = "una clave larga"
OPEN = {"name": "Open", "best_tier": "strong", "rank": 9, "has_batches": True}
_numbers = count()


@dataclass(frozen=True)
class Cast:
    """The people of some requests. Requests change and delete what they find, so that each cast serves for a few.

    `own` and `foreign` are ids by the parameter that takes them, of the member and of somebody else.
    """

    email: str
    own: dict[str, tuple[str, ...]]
    foreign: dict[str, tuple[str, ...]]
    member_cookie: str
    operator_cookie: str
    access: str
    refresh: str
    mailed_key: str


def new_cast() -> Cast:
    """Return new people, on a site where nothing was counted yet."""
    sync_redis().flushall()
    _restore_catalog()
    number = next(_numbers)
    member, other = (
        User.objects.create_user(f"{name}{number}@example.com", PASSWORD, locale="en") for name in ("ana", "bo")
    )
    operator = User.objects.create_superuser(f"olga{number}@example.com", PASSWORD, locale="en")
    plan = Plan.objects.get(key="open")
    BillingAccount.objects.bulk_create(BillingAccount(user=user, plan=plan) for user in (member, other, operator))
    address = EmailAddress.objects.create(user=member, email=member.email, primary=True)
    tokens = begin_family(member)
    return Cast(
        email=member.email,
        own=belongings_of(member),
        foreign=belongings_of(other),
        member_cookie=session_cookie(member),
        operator_cookie=session_cookie(operator),
        access=str(tokens.access_token),
        refresh=str(tokens),
        mailed_key=EmailConfirmationHMAC.create(address).key,
    )


def _restore_catalog() -> None:
    """Make the plans and models again that an operator of an earlier cast has changed or deleted."""
    load_plans()
    load_catalog()
    Plan.objects.update_or_create(key="open", defaults=OPEN)
    LanguageModel.objects.update_or_create(key="scripted", defaults=SCRIPTED)
    caching.forget_everything()


def _transfer(model: type[Transfer], user: User) -> UUID:
    return model._default_manager.create(owner_id=user.pk, key=uuid4().hex).pk


def _batch(user: User, status: str) -> Batch:
    fields = {"name": "a.jsonl", "size": 10, "key": uuid4().hex, "total": 3, "status": status}
    return Batch.objects.create(owner_id=user.pk, **fields)


def belongings_of(user: User) -> dict[str, tuple[str, ...]]:
    over, is_open = finished(user), ask(user)
    Turn.objects.filter(pk=over.pk).update(answer="Hola.")  # or there were nothing to share
    conversation = access.access_conversation(user.pk, over.conversation_id)
    terms = KeyTerms(name="Job", scopes=("chat",))
    key, _secret = make_key(user, terms, peer="", key_id=uuid4())
    share = sharing.create_share(conversation, Terms(), description_of, share_id=new_id())
    return {
        "conversation_id": (str(over.conversation_id), str(is_open.conversation_id)),
        "import_id": (str(_transfer(Import, user)),),
        "export_id": (str(_transfer(Export, user)),),
        "batch_id": tuple(str(_batch(user, status).pk) for status in ("validated", "completed", "running")),
        "form": ("json", "markdown", "print"),
        "turn_id": (str(over.pk), str(is_open.pk)),
        "share_id": (str(share.pk),),
        "key_id": (str(key.pk),),
        "token": (sharing.token_of(share),),
        "folder_id": (str(create_folder(user.pk, name="Cocina").pk),),
        "attachment_id": (str(kept(user, b"hola", "a.txt").pk),),
    }
