"""The interpreter of a process that lives long and relays tokens."""

import gc
import sys

THRESHOLDS = (2_000, 5, 5)
"""New objects between two collections of the youngest; of those, one in 5 looks at the older ones too, and one in 25 at
all. The default of 700 looks hundreds of times a second when tokens are relayed. With (5_000, 5, 10) a web process grew
by a megabyte a minute: every request of Django's leaves a circle of 150 objects behind."""

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while the loop waits for it. With the default of 5 ms, questions that are
opened in threads made one token in a hundred 200 ms late; with this, 90."""


def tune_for_serving() -> None:
    """To be called once everything is imported: what start-up made lives for ever, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    # A full collection waits until a quarter as much is new as survived the last one, and that one saw all of start-up.
    gc.collect()
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
