"""Does what a worker of billing does, in processes that can be killed: `python -m tests.billing.money_worker`.

For each line on its standard input it forks a worker, kills it after the line's seconds, if it has any and the worker
lives as long, and prints what became of it.
"""

import os
import signal
import sys
import time

import django

django.setup()

from billing import reconciliation  # noqa: E402


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            reconciliation.work_off()
            reconciliation.reconcile()
            reconciliation.work_off()
            os._exit(0)
        if seconds := line.strip():
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)  # nobody else has its id before it was waited for
        _pid, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "ended" if status == 0 else "broke", flush=True)


if __name__ == "__main__":
    main()
