"""A stand-in for systemd: starts what unit files say, under the user and with the environment they name, starts it
again when it dies, and stops it with SIGTERM.

Of sandboxes and limits of memory it knows nothing; `systemd-analyze verify` reads those (tests/deploy/test_files.py).
"""

import os
import pwd
import resource
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGS = Path("/run/logs")

Options = dict[str, list[str]]


class UnitError(Exception):
    """What was asked of a unit cannot be done. The message says why."""


def read_unit(name: str) -> tuple[Options, str]:
    """Return what the files of a unit say, each option with all its values, and its instance ("1" of "web@1")."""
    stem, _, suffix = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    names = [name, f"{prefix}@.{suffix}"] if at else [name]
    found = [folder / one for one in names for folder in UNIT_FOLDERS if (folder / one).exists()]
    if not found:
        raise UnitError(f"There is no unit {name}.")
    parts = prefix.split("-")
    families = ["-".join(parts[:end]) + f"-.{suffix}" for end in range(1, len(parts))]
    drop_ins = [
        file for family in (*families, *names) for file in sorted((UNIT_FOLDERS[0] / f"{family}.d").glob("*.conf"))
    ]
    options: Options = {}
    for file in (found[0], *drop_ins):
        for key, value in _read_lines(file):
            if value:
                options.setdefault(key, []).append(value.replace("%i", instance).replace("%n", name).replace("%%", "%"))
            else:
                options.pop(key, None)
    return options, instance


def _read_lines(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().replace("\\\n", " ").splitlines():
        if line and line[0] not in "#;[":
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


class Service:
    """One service, as long as the machine runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = 0
        self._options: Options = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._watching: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The main process's, 0 where none runs."""
        if "PIDFile" in self._options:
            file = Path(self._options["PIDFile"][-1])
            return int(file.read_text()) if file.exists() else 0
        return self._child.pid if self._child and self._child.poll() is None else 0

    def start(self) -> None:
        """Return when it is started, as its type understands that; a service of the type oneshot, when it is over."""
        if self.pid:
            return
        self._options, _ = read_unit(self.name)
        self._is_wanted = True
        for command in self._options.get("ExecStartPre", []):
            self._run(command)
        kind = self._options.get("Type", ["simple"])[-1]
        if kind in ("oneshot", "forking"):
            self._run(self._options["ExecStart"][-1])
            return
        self._spawn()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def stop(self) -> None:
        self._is_wanted = False
        if "ExecStop" in self._options:
            self._run(self._options["ExecStop"][-1])
        elif child := self._child:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            try:
                child.wait(float(self._options.get("TimeoutStopSec", ["90"])[-1]))
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not stop, and was killed.", flush=True)
                self.kill()
            self._end_group(child)
        if self._watching:
            self._watching.join()

    def reload(self) -> None:
        self._run(self._options["ExecReload"][-1])

    def kill(self) -> None:
        """Kill the main process; like one that dies, it is started again if the unit says so."""
        os.kill(self.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Start it again whenever it has ended, until it is stopped."""
        while child := self._child:
            child.wait()
            self._end_group(child)
            if not self._is_wanted or self._options.get("Restart", ["no"])[-1] != "always":
                return
            time.sleep(float(self._options.get("RestartSec", ["0.1"])[-1]))
            if self._is_wanted:
                with suppress(UnitError):
                    self._spawn()

    def _end_group(self, child: "subprocess.Popen[bytes]") -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)

    def _spawn(self) -> None:
        self.started += 1
        self._child = self._open(self._options["ExecStart"][-1])
        for command in self._options.get("ExecStartPost", []):
            self._run(command)

    def _run(self, command: str) -> None:
        may_fail = command.startswith("-")
        if self._open(command.lstrip("-")).wait() and not may_fail:
            raise UnitError(f"{self.name}: {command} failed.\n{self.log()[-4000:]}")

    def log(self) -> str:
        file = LOGS / f"{self.name}.log"
        return file.read_text() if file.exists() else ""

    def _open(self, command: str) -> "subprocess.Popen[bytes]":
        options = self._options
        user = pwd.getpwnam(options.get("User", ["root"])[-1])
        for kind, parent, mode in (("State", "/var/lib", "0755"), ("Cache", "/var/cache", "0755")):
            for name in options.get(f"{kind}Directory", []):
                folder = Path(parent, name)
                folder.mkdir(exist_ok=True, parents=True)
                folder.chmod(int(options.get(f"{kind}DirectoryMode", [mode])[-1], 8))
                shutil.chown(folder, user.pw_uid, user.pw_gid)
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "USER": user.pw_name, "HOME": user.pw_dir}
        for line in options.get("Environment", []):
            environment |= dict(one.split("=", 1) for one in shlex.split(line))
        for file in options.get("EnvironmentFile", []):
            environment |= dict(_read_lines(Path(file)))
        if self._child:
            environment["MAINPID"] = str(self._child.pid)
        files, umask = int(options.get("LimitNOFILE", ["1024"])[-1]), int(options.get("UMask", ["0022"])[-1], 8)
        arguments = [environment.get(one[1:], "") if one.startswith("$") else one for one in shlex.split(command)]
        with (LOGS / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                arguments,
                cwd=options.get("WorkingDirectory", ["/"])[-1],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=os.getgrouplist(user.pw_name, user.pw_gid),
                umask=umask,
                start_new_session=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, 1024), files)),
            )


class ServiceManager:
    def __init__(self) -> None:
        LOGS.mkdir(exist_ok=True)
        LOGS.chmod(0o777)
        self._services: dict[str, Service] = {}

    def service(self, name: str) -> Service:
        name = name if "." in name else f"{name}.service"
        return self._services.setdefault(name, Service(name))

    def run(self, arguments: list[str]) -> str:
        """Do what `systemctl` is asked for; return what it prints. Raises UnitError."""
        options = [one for one in arguments if one.startswith("-")]
        verb, *names = [one for one in arguments if not one.startswith("-")]
        if unknown := set(options) - {"--now", "--quiet"}:
            raise UnitError(f"This stand-in does not know {unknown}.")
        if verb == "daemon-reload":
            return ""
        if verb == "enable":
            for name in names:
                self._enable(name)
            if "--now" not in options:
                return ""
            verb = "start"
        with ThreadPoolExecutor() as pool:  # all at once, as systemd does
            list(pool.map(lambda service: self._of_service(verb, service), self._services_of(names)))
        return ""

    def _services_of(self, names: list[str]) -> list[Service]:
        """Return the services themselves, and those that a target wants, each once."""
        found: dict[str, Service] = {}
        for name in names:
            wanted = (UNIT_FOLDERS[0] / f"{name}.wants").glob("*") if name.endswith(".target") else [Path(name)]
            for one in sorted(path.name for path in wanted):
                service = self.service(one)
                found[service.name] = service
        return list(found.values())

    def _enable(self, name: str) -> None:
        name = name if "." in name else f"{name}.service"
        options, _ = read_unit(name)
        for target in options.get("WantedBy", []):
            wants = UNIT_FOLDERS[0] / f"{target}.wants"
            wants.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (wants / name).symlink_to(f"../{name}")

    def _of_service(self, verb: str, service: Service) -> None:
        match verb:
            case "start":
                service.start()
            case "stop":
                service.stop()
            case "restart":
                service.stop()
                service.start()
            case "reload":
                service.reload()
            case "is-active":
                if not service.pid:
                    raise UnitError("inactive")
            case _:
                raise UnitError(f"This stand-in does not know “systemctl {verb}”.")

    def stop_everything(self) -> None:
        """Stop what runs, the stores last: the others need them to stop in order."""
        for is_ours in (True, False):
            names = [name for name, one in self._services.items() if name.startswith("tertulia") == is_ours and one.pid]
            with suppress(UnitError):
                self.run(["stop", *names])
