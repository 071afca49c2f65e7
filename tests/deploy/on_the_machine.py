"""Does what `docs/deploy.md` says on a machine of its own, then lets `night.py` and `gateway.py` loose on the site. It
is started in namespaces by `test_behind_nginx.py`, and prints one line of JSON at the end, its report.

    python -m tests.deploy.on_the_machine SCRATCH STREAMS SEED [--whole]
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.blocks import blocks_of
from tests.deploy.machine import Machine

SITE = Path("/opt/tertulia")
CERTIFICATE = "/etc/nginx/site/tls/fullchain.pem"
PROVIDER_PORT = 9100
UNLIMITED = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
OF_THE_OPERATOR = f"""cat >> {SITE}/.env <<END
LOG_FORMAT=text
MODEL_TITLES=false
CACHE_TTL=0
OPENAI_COMPATIBLE_BASE_URL=http://127.0.0.1:{PROVIDER_PORT}/v1
OPENAI_COMPATIBLE_MODELS=%s
END
"""
"""What is written into .env where the document says that one does."""
SETTLED_SECONDS = 120.0


def main() -> None:
    scratch, streams, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    is_whole = "--whole" in sys.argv
    model = "fake-60t-350ms" if is_whole else "fake-40t-50ms"  # 300 new questions in 21 s are what two cores bear
    begun = time.monotonic()
    machine = Machine(scratch)
    try:
        install, release = scripts_of(model)
        machine.run_script(install)
        report: dict[str, Any] = {"install_seconds": round(time.monotonic() - begun, 1)}
        os.environ["SSL_CERT_FILE"] = CERTIFICATE
        from tests.deploy import gateway, night  # now: aiohttp looks for certificates when it is imported

        with provider(), commands() as run:
            people = run("create_members", count=streams, plan=UNLIMITED)
            running = night.Night(machine, model, people, seed)
            report |= asyncio.run(running.run(release if is_whole else "", kills=3 if is_whole else 1))
            report["ledger"] = _settled(run)
            saved = {turn["pk"]: [turn["status"], turn["answer"]] for turn in run("audit")["turns"]}
            report["unlike_saved"] = [turn for turn, read in report.pop("read").items() if read != saved.get(turn)]
        report["gateway"] = gateway.look(machine, people[0])
    except BaseException:
        for log in sorted(Path("/run/logs").glob("*.log")):
            print(f"== {log.name}\n{log.read_text()[-6000:]}", file=sys.stderr)
        raise
    machine.manager.stop_everything()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report["cpu_seconds"] = round(used.ru_utime + used.ru_stime + time.process_time(), 1)
    report["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(report), flush=True)


def scripts_of(model: str) -> tuple[str, str]:
    """Return what the document says to do at first, with what an operator writes into .env, and for a release."""
    *installing, releasing = blocks_of("docs/deploy.md", "One plain server")
    place = next(number for number, block in enumerate(installing) if "new_env.sh" in block) + 1
    installing.insert(place, OF_THE_OPERATOR % model)
    return "\n".join(installing), f"SITE=chat.example.com\n{releasing}"


@contextmanager
def provider() -> Iterator[None]:
    program = [sys.executable, "-m", "testbed.provider", "--port", str(PROVIDER_PORT)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as providing:
        assert providing.stdout is not None
        providing.stdout.readline()  # it is ready
        try:
            yield
        finally:
            providing.terminate()


@contextmanager
def commands() -> Iterator[Callable[..., Any]]:
    """Return a function that runs one of `testbed.site_commands` as the site's user."""
    folders = [line for line in (SITE / "deploy/folders.env").read_text().splitlines() if line[0] != "#"]
    program = [str(SITE / ".venv/bin/python"), "-m", "testbed.site_commands"]
    command = ["runuser", "-u", "tertulia", "--", "env", *folders, "DJANGO_SETTINGS_MODULE=config.settings", *program]
    with subprocess.Popen(command, cwd=SITE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def run(name: str, **arguments: object) -> Any:
            asked.write(json.dumps([name, arguments]).encode() + b"\n")
            asked.flush()
            result = json.loads(answered.readline())
            assert "error" not in result, result["error"]
            return result["value"]

        try:
            yield run
        finally:
            asked.close()


def _settled(run: Callable[..., Any]) -> Any:
    """Return the ledger when nothing is held any more, or as it is after a while."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (found := run("ledger"))["held"] and time.monotonic() < deadline:
        time.sleep(1)
    return found


if __name__ == "__main__":
    main()
