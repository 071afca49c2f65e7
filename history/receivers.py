"""What follows from a closed account: imports and exports are erased. The conversations are erased by the chat, which
first stops and settles their turns."""

from typing import Any

from django.dispatch import receiver

from accounts.signals import account_closed
from history.transfer import states


@receiver(account_closed)
def erase_transfers_with_account(user_id: int, **_signal: Any) -> bool:
    states.erase_transfers_of(user_id)
    return True
