"""The staff's roles, as groups of permissions: what a new installation has. What an operator changes stays.

A role opens the admin to nobody by itself: `is_staff` does. Superusers may do everything.
"""

from django.contrib.auth.models import Group, Permission
from django.db.models import Q, QuerySet

SUPPORT = (
    *("accounts.view_user", "accounts.suspend_user", "accounts.view_invitation", "accounts.add_invitation"),
    *("history.view_turn", "history.view_sharedpage", "history.change_sharedpage"),
    *("chat.view_staffreading", "chat.add_staffreading", "chat.view_languagemodel"),
    *("billing.view_billingaccount", "billing.view_payment", "billing.view_subscription", "billing.view_plan"),
    *("billing.view_usageperiod", "billing.view_usagerecord"),
)
"""Helps people. It cannot change an address or a password, with which it could read what people write unseen."""
BILLING_APPS = ("billing", "djstripe")
OPERATOR_APPS = ("billing", "djstripe", "chat", "history")


def load_roles() -> None:
    """Create the groups that do not exist, where their permissions do."""
    _create("support", Permission.objects.filter(_named(SUPPORT)))
    _create(
        "billing",
        Permission.objects.filter(Q(content_type__app_label__in=BILLING_APPS) | _named(("accounts.view_user",))),
    )
    _create(
        "operator",
        Permission.objects.filter(
            Q(content_type__app_label__in=OPERATOR_APPS) | Q(content_type__app_label="accounts") | _named(SUPPORT)
        ),
    )


def _named(names: tuple[str, ...]) -> Q:
    found = Q(pk__in=())
    for name in names:
        app, _dot, codename = name.partition(".")
        found |= Q(content_type__app_label=app, codename=codename)
    return found


def _create(name: str, permissions: "QuerySet[Permission]") -> None:
    group, is_new = Group.objects.get_or_create(name=name)
    if is_new:
        group.permissions.set(permissions)
