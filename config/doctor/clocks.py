"""Clocks: sweeps compare dates that other machines wrote with their own."""

import datetime as dt

from config.doctor.findings import Finding, fail, ok, warn
from core.sweeps import MAX_CLOCK_DIFFERENCE

NOTABLE = dt.timedelta(seconds=1)


def local_time() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def compare(subject: str, theirs: dt.datetime) -> Finding:
    """Compare the clock of a store, which was just read, with this machine's."""
    difference = abs(theirs - local_time())
    said = f"differs from this machine's by {difference.total_seconds():.1f} s"
    remedy = "Let NTP keep the clocks of all machines (chrony or systemd-timesyncd), this one included."
    if difference > MAX_CLOCK_DIFFERENCE:
        return fail(subject, f"It {said}; {MAX_CLOCK_DIFFERENCE.seconds} s are allowed.", remedy)
    return warn(subject, f"It {said}.", remedy) if difference > NOTABLE else ok(subject, said)
