"""The garbage collector of a process that lives long."""

import gc

YOUNG = 10_000
"""New objects between two collections. The default of 700 looks hundreds of times a second when tokens are relayed."""


def settle() -> None:
    """To be called once everything is imported: what start-up made lives for ever, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
