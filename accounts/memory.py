"""The interpreter of a process that lives long and relays tokens."""

import gc
import sys

YOUNG = 5_000
"""New objects between two collections. The default of 700 looks hundreds of times a second when tokens are relayed."""

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while the loop waits for it. With the default of 5 ms, questions that are
opened in threads made one token in a hundred 200 ms late; with this, 90."""


def settle() -> None:
    """To be called once everything is imported: what start-up made lives for ever, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 5, 10)
    sys.setswitchinterval(SWITCH_SECONDS)
