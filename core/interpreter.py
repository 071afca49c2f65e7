"""Tunes the Python interpreter for long-lived processes that relay tokens: garbage collection, thread switches."""

import gc
import sys

THRESHOLDS = (2_000, 5, 5)
"""For `gc.set_threshold`: the youngest generation is collected after 2,000 new objects, the second every 5th time, the
oldest every 25th. With the default of 700, relaying tokens runs it hundreds of times a second. With (5_000, 5, 10) a
web process grew by a megabyte a minute: every Django request leaves a reference cycle of 150 objects behind."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while the event loop waits for it. With the default of 5 ms, turns opened
in threads delayed one token in a hundred by 200 ms; with this, by 90."""


def tune_for_serving() -> None:
    """Call this once everything is imported: objects made at start-up live for ever, and are not collected again."""
    gc.collect()
    gc.freeze()
    # Python puts a full collection off until new objects are a quarter of those that survived the last one. That one
    # counted everything from start-up, so collect once more.
    gc.collect()
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
