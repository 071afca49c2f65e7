"""The site of `docs/deploy.md` on a machine of its own, read by many while all of it is restarted and some of it is
killed. A program, started in namespaces by `tests/deploy/test_behind_nginx.py`: it prints one line of JSON, its report.

    python -m tests.deploy.night SCRATCH STREAMS SEED [--whole]
"""

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from testbed.script import expected_text
from tests.deploy import gateway
from tests.deploy.blocks import blocks_of
from tests.deploy.machine import Machine
from tests.deploy.service_manager import Service
from tests.deploy.visitors import Reading, read_answer

SITE = Path("/opt/tertulia")
CERTIFICATE = "/etc/nginx/site/tls/fullchain.pem"
PROVIDER_PORT = 9100
UNLIMITED = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
OF_THE_OPERATOR = """cat >> /opt/tertulia/.env <<END
LOG_FORMAT=text
MODEL_TITLES=false
CACHE_TTL=0
OPENAI_COMPATIBLE_BASE_URL=http://127.0.0.1:{port}/v1
OPENAI_COMPATIBLE_MODELS={model}
END
"""
"""What is written into .env where the document says that one does."""
WAYS = ("socket", "events", "program")
VICTIMS = ("web@8001", "web@8002", "runner@1", "runner@2", "worker", "beat")
KILLS = 3
PATIENCE_SECONDS = 120.0


def main() -> None:
    scratch, streams, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    is_whole = "--whole" in sys.argv
    model = "fake-60t-150ms" if is_whole else "fake-40t-50ms"
    report: dict[str, Any] = {"seconds": {}}
    machine = Machine(scratch)
    os.environ["SSL_CERT_FILE"] = CERTIFICATE
    try:
        install, release = _scripts(model)
        with _timed(report, "install"):
            machine.run_script(install)
        with _provider(), _commands() as run:
            people = run("create_members", count=streams, plan=UNLIMITED)
            asyncio.run(Night(machine, model, people, random.Random(seed), report).run(release if is_whole else ""))
            with _timed(report, "settled"):
                report["ledger"] = _settled(run)
        with _timed(report, "gateway"):
            report["gateway"] = gateway.look(machine, people[0])
    except BaseException:
        for log in sorted(Path("/run/logs").glob("*.log")):
            print(f"== {log.name}\n{log.read_text()[-6000:]}", file=sys.stderr)
        raise
    machine.manager.stop_everything()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report["cpu_seconds"] = round(used.ru_utime + used.ru_stime + time.process_time(), 1)
    print(json.dumps(report), flush=True)


def _scripts(model: str) -> tuple[str, str]:
    """Return what the document says to do at first, with what an operator writes into .env, and for a release."""
    *installing, releasing = blocks_of("docs/deploy.md", "One plain server")
    written = OF_THE_OPERATOR.format(port=PROVIDER_PORT, model=model)
    place = next(number for number, block in enumerate(installing) if "new_env.sh" in block) + 1
    return "\n".join([*installing[:place], written, *installing[place:]]), f"SITE=chat.example.com\n{releasing}"


class Night:
    def __init__(
        self, machine: Machine, model: str, people: list[str], rng: random.Random, report: dict[str, Any]
    ) -> None:
        self._machine, self._model, self._people, self._rng, self._report = machine, model, people, rng, report
        self._readings: list[Reading] = []
        self._is_over = False

    async def run(self, release: str) -> None:
        """Have everybody read answer after answer, until everything was disturbed."""
        async with asyncio.TaskGroup() as group:
            for number, access in enumerate(self._people):
                group.create_task(self._keep_reading(WAYS[number % len(WAYS)], access))
            with _timed(self._report, "all read"):
                await self._until(
                    lambda: all(any(one.text for one in self._of(number)) for number in range(len(self._people)))
                )
            with _timed(self._report, "restarts"):
                await self._restart(release)
            with _timed(self._report, "kills"):
                await self._kill()
            self._is_over = True
        expected = expected_text(self._model)
        wrong = [one for one in self._readings if (one.status, one.text, one.complaints) != ("completed", expected, [])]
        self._report |= {
            "answers": len(self._readings),
            "ways": {way: sum(one.way == way for one in self._readings) for way in WAYS},
            "connections": sum(one.connections for one in self._readings),
            "asked_anew": sum(one.stopped for one in self._readings),
            "wrong": [asdict(one) for one in wrong],
        }

    async def _keep_reading(self, way: str, access: str) -> None:
        while not self._is_over:
            reading = Reading(way)
            self._readings.append(reading)
            await read_answer(way, access, self._model, reading)

    def _of(self, number: int) -> list[Reading]:
        return self._readings[number :: len(self._people)][:1]

    async def _restart(self, release: str) -> None:
        """Do a release; without one, restart one process of each kind that people notice, and nginx."""
        script = (
            release
            or "systemctl restart tertulia-runner@1\nsystemctl restart tertulia-web@8001\nsystemctl reload nginx\n"
        )
        await asyncio.to_thread(self._machine.run_script, script)

    async def _kill(self) -> None:
        victims = self._rng.sample(VICTIMS, KILLS)
        self._report["killed"] = victims
        killed = []
        for victim in victims:
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
            service = self._machine.manager.service(f"tertulia-{victim}")
            killed.append((service, service.pid))
            service.kill()
        await self._until(lambda: all(self._is_back(*one) for one in killed))

    @staticmethod
    def _is_back(service: Service, former: int) -> bool:
        return service.pid not in (0, former)

    async def _until(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@contextmanager
def _timed(report: dict[str, Any], name: str) -> Iterator[None]:
    since = time.monotonic()
    yield
    report["seconds"][name] = round(time.monotonic() - since, 1)
    print(f"{name}: {report['seconds'][name]} s", file=sys.stderr, flush=True)


@contextmanager
def _provider() -> Iterator[None]:
    program = [sys.executable, "-m", "testbed.provider", "--port", str(PROVIDER_PORT)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as providing:
        providing.stdout.readline()  # type: ignore[union-attr]  # it is ready
        try:
            yield
        finally:
            providing.terminate()


@contextmanager
def _commands() -> Iterator[Any]:
    """Return a function that runs one of `testbed.site_commands` as the site's user."""
    folders = [line for line in (SITE / "deploy/folders.env").read_text().splitlines() if line[0] != "#"]
    program = [str(SITE / ".venv/bin/python"), "-m", "testbed.site_commands"]
    command = ["runuser", "-u", "tertulia", "--", "env", *folders, "DJANGO_SETTINGS_MODULE=config.settings", *program]
    with subprocess.Popen(command, cwd=SITE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def run(name: str, **arguments: object) -> Any:
            answers: IO[bytes] = process.stdout  # type: ignore[assignment]
            process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            result = json.loads(answers.readline())
            assert "error" not in result, result["error"]
            return result["value"]

        try:
            yield run
        finally:
            process.stdin.close()  # type: ignore[union-attr]


def _settled(run: Any) -> dict[str, Any]:
    """Return the ledger when nothing is held any more, or as it is after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := run("ledger"))["held"] and time.monotonic() < deadline:
        time.sleep(1)
    return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
