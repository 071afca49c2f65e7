"""What follows from changes elsewhere: who goes away, or is about to, is charged no more; and what tokens say of a
plan."""

from typing import Any

from django.db.models.signals import pre_delete
from django.dispatch import receiver

from accounts.models import User
from accounts.signals import account_leaving, token_made
from billing.entitlements import entitlements_of
from billing.models import BillingAccount
from billing.purchasing import close_account, stop_renewals


@receiver(token_made)
def name_plan(user: User, **_signal: Any) -> dict[str, str]:
    """Say in access tokens which plan their user has."""
    return {"plan": entitlements_of(user.pk).plan}


@receiver(account_leaving)
def cancel_what_renews(user_id: int, **_signal: Any) -> None:
    """In the transaction that says that the account will be closed: nothing is charged any more."""
    account = BillingAccount.objects.filter(user_id=user_id).first()
    if account is not None:
        stop_renewals(account)


@receiver(pre_delete, sender=User)
def end_subscriptions(instance: User, **_signal: Any) -> None:
    """In the transaction of the deletion: what is to be done at the gateways is written down, or nothing is deleted."""
    account = BillingAccount.objects.filter(user_id=instance.pk).first()
    if account is not None:
        close_account(instance.pk, account)
