"""What becomes of batches when their owner is gone."""

from typing import Any

from django.dispatch import receiver

from accounts.signals import account_closed
from chat.batches import states
from chat.models import Batch


@receiver(account_closed)
def erase_batches_with_account(user_id: int, **_signal: Any) -> bool:
    """Erase all batches of a person: hidden first, so that no worker asks another line. Turns that are being written
    are stopped and settled with the rest of their history."""
    states.hide_batches(Batch.objects.filter(owner_id=user_id))
    states.erase_hidden_batches(owner_id=user_id)
    return True
