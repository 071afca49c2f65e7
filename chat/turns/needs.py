"""What a runner must know to answer a turn: a number, in the turn's row.

While a release is rolled out, a new web process may let people ask what an old runner would take for something else,
and answer wrongly, for money. Whoever adds such a thing adds a number here, writes it into the turns that need it, and
makes it the one that is known. A runner that does not know a turn's number leaves the turn to one that does.
"""

from history.models import Turn

COMPLETION = 1
"""What is asked is in Redis beside the turn (asked.py), and the row has no question."""

KNOWN = COMPLETION
"""The highest number that runners of this release know. They know those below, too."""


def knows_needs_of(turn: Turn) -> bool:
    """Return whether runners of this release know all that the turn needs."""
    return (turn.needs or 0) <= KNOWN
