"""The files of `deploy/`, as the tools they are for read them. What runs them is in test_behind_nginx.py; no container
has been started."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address
from pathlib import Path
from string import Template
from typing import Any

import pytest
from django.http.request import split_domain_port, validate_host

from tests.deploy.machine import ROOT

DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
RUN_ONCE = {"prepare"}
OURS = {"web1": "web@", "web2": "web@", "runner1": "runner@", "runner2": "runner@"}
"""The unit of a service of compose.yaml, where it has another name."""


def run(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Compose makes of the file, with the .env that a new site begins with."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DEPLOY, folder / "deploy")
    made = run("sh", DEPLOY / "new_env.sh", "chat.example.com")
    (folder / ".env").write_text(made.stdout)
    program = Path(sys.executable).with_name("docker-compose")
    done = run(program, "--env-file", ".env", "-f", "deploy/compose.yaml", "config", "--format", "json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_container_is_limited_watched_started_again_and_writes_nothing_but_its_folders(
    composed: dict[str, Any],
) -> None:
    assert composed["services"].keys() >= {*OURS, "nginx", "worker", "beat", "prepare", "postgres", "mongo", "redis"}
    for name, service in composed["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory", "pids"}, name
        assert service["restart"] == ("no" if name in RUN_ONCE else "unless-stopped"), name
        assert name in RUN_ONCE or "healthcheck" in service, name
    published = [name for name, service in composed["services"].items() if service.get("ports")]
    assert published == ["nginx"]
    assert composed["networks"]["inside"]["internal"]


def test_containers_run_what_the_units_run(composed: dict[str, Any]) -> None:
    """So that what is tested of the units holds for them."""
    for name, service in composed["services"].items():
        if service.get("image") == "tertulia":
            unit = UNITS / f"tertulia-{OURS.get(name, name)}.service"
            command = re.search(r"^ExecStart=/opt/tertulia/\.venv/bin/(.*)$", unit.read_text(), re.MULTILINE)
            assert command is not None
            place = ["--host", "0.0.0.0", "--port", "8000"] if "web" in name else []
            assert service["command"] == [*shlex.split(command[1].replace(" --port 800%i", "")), *place]
            for folder in (line for line in (DEPLOY / "folders.env").read_text().splitlines() if line[0] != "#"):
                assert folder in (DEPLOY / "Dockerfile").read_text()


def test_nginx_finds_web_containers_where_compose_puts_them(composed: dict[str, Any]) -> None:
    servers = re.findall(r"^server ([\d.]+):8000", (DEPLOY / "upstreams/compose.conf").read_text(), re.MULTILINE)
    assert servers == [composed["services"][web]["networks"]["inside"]["ipv4_address"] for web in ("web1", "web2")]
    assert run("nginx", "-v").stderr if shutil.which("nginx") else True


def test_no_password_is_in_what_is_started(composed: dict[str, Any]) -> None:
    """Everybody on the machine reads it in the list of processes."""
    secrets = [value for name, value in composed["services"]["web1"]["environment"].items() if "PASSWORD" in name]
    assert len(secrets) == 3
    for name, service in composed["services"].items():
        started = json.dumps([service.get("entrypoint"), service.get("command"), service.get("healthcheck")])
        assert [secret for secret in secrets if secret in started] == [], name


def test_compose_writes_nothing_into_a_container_that_is_read_only(composed: dict[str, Any]) -> None:
    """It refuses to, when it starts it: "`file` is the sole supported option" (docker/compose, pull request 12531)."""
    for kind in ("configs", "secrets"):
        written = {name for name, one in composed.get(kind, {}).items() if "file" not in one}
        given = {
            name: {one["source"] for one in service.get(kind, ())} for name, service in composed["services"].items()
        }
        assert {name: sources & written for name, sources in given.items() if sources & written} == {}


def test_nginx_is_told_the_name_where_its_container_may_write(composed: dict[str, Any]) -> None:
    """As its image does it: each template of /etc/nginx/templates becomes a file of NGINX_ENVSUBST_OUTPUT_DIR."""
    nginx = composed["services"]["nginx"]
    mounted = {one["target"]: Path(one["source"]) for one in nginx["volumes"] if one["type"] == "bind"}
    assert nginx["environment"]["NGINX_ENVSUBST_OUTPUT_DIR"] in nginx["tmpfs"]
    template = mounted["/etc/nginx/templates/name.conf.template"].read_text()
    assert Template(template).substitute(nginx["environment"]) == "server_name chat.example.com;\n"
    included = f"include {nginx['environment']['NGINX_ENVSUBST_OUTPUT_DIR']}/name.conf;"
    assert included in mounted["/etc/nginx/site/name.conf"].read_text().splitlines()


def network_of_nginx(address: str) -> str:
    """Return what nginx.conf counts as one network."""
    _, _, found = (DEPLOY / "nginx/nginx.conf").read_text().partition("map $remote_addr $network {")
    for pattern in re.findall(r'^ +"~(.*)" \$half;$', found.partition("}")[0], re.MULTILINE):
        if match := re.match(pattern.replace("(?<", "(?P<"), address):
            return match["half"]
    return address


@pytest.mark.parametrize(
    "prefix", ["2a01:4f8:c17:abcd", "2001:db8:1:0", "2001:db8:0:1", "2001:db8:0:0", "2001:0:0:0", "2a0e:0:0:7"]
)
def test_nginx_counts_a_network_of_ipv6_as_one(prefix: str) -> None:
    """But for those in which the longest run of zeros is now before the 65th bit and now behind it: they are two."""
    hosts = (
        "0:0:0:1",
        "0:0:7:1",
        "7:0:0:1",
        "a:b:c:d",
        "0:b:c:d",
        "a:0:0:0",
        *(f"{one:x}:1:1:1" for one in range(1, 99)),
    )
    addresses = {str(IPv6Address(f"{prefix}:{host}")) for host in hosts}
    assert len({network_of_nginx(address) for address in addresses}) <= 2
    assert {network_of_nginx(address) for address in ("192.0.2.1", "192.0.2.2", "::1")} == {
        "192.0.2.1",
        "192.0.2.2",
        "::1",
    }


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(Path(sys.executable).with_name("hadolint"), "--no-color", DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def sources_of_the_image() -> set[str]:
    copied = re.findall(r"^COPY (?!--)(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    return {source for line in copied for source in line.split()[:-1]}


def test_what_the_image_is_made_of_is_there_and_reaches_the_builder() -> None:
    sources = sources_of_the_image()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == sent
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_a_backup_finds_in_the_image_what_it_reads(tmp_path: Path) -> None:
    image = tmp_path / "app"
    for source in sources_of_the_image():
        (image / source).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, image / source)
        else:
            shutil.copy(ROOT / source, image / source)
    done = run(
        *(sys.executable, "-c", "from config.backups.settings_kept import list_settings; print(list_settings())"),
        cwd=image,
        env={
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "planted",
            "DATA_DIR": str(tmp_path / "data"),
        },
    )
    assert "SECRET_KEY=(secret)" in done.stdout, done.stderr


@pytest.mark.parametrize("allowed", ["chat.example.com,localhost", ".example.com", "*"])
def test_a_web_process_is_asked_for_by_a_name_that_it_takes(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Web(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, _port = split_domain_port(self.headers["Host"])
            self.send_response(200 if host and validate_host(host, allowed.split(",")) else 400)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Not to the terminal."""

    monkeypatch.setenv("ALLOWED_HOSTS", allowed)
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        done = run(sys.executable, DEPLOY / "healthcheck.py", "web", "--port", web.server_port)
        web.shutdown()
    assert (done.returncode, done.stderr) == (0, "")


@cache
def systemd_analyze() -> str | None:
    return shutil.which("systemd-analyze")


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if not systemd_analyze():
        pytest.skip("systemd-analyze is not installed (apt install systemd)")
    shutil.copytree(UNITS, tmp_path / "units")
    for file in (tmp_path / "units").glob("**/*.*"):  # what they start is not here, and would be missed
        if file.is_file():
            file.write_text(file.read_text().replace("/opt/tertulia/.venv/bin/", "/bin/true "))
    names = [path.name.replace("@", "@1") for path in UNITS.iterdir() if path.is_file()]
    assert len(names) == 8
    done = run(systemd_analyze(), "verify", "--man=no", *names, env={"SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"})
    assert [line for line in done.stderr.splitlines() if "tertulia" in line] == []
    assert done.returncode == 0


def test_the_unit_for_backups_may_write_where_it_does() -> None:
    """The drop-in for all units of such a name takes every other folder away from it."""
    assert "ProtectSystem=strict" in (UNITS / "tertulia-.service.d/common.conf").read_text()
    unit = (UNITS / "tertulia-backup.service").read_text()
    folder = re.search(r"manage\.py backup (/.+)/", unit)
    assert folder is not None
    assert re.findall(r"^ReadWritePaths=(.*)$", unit, re.MULTILINE) == [folder[1]]
    assert "WorkingDirectory" not in unit


def test_prometheus_asks_where_the_units_show_their_figures() -> None:
    asked = set(re.findall(r"127\.0\.0\.1:(94\d\d)", (DEPLOY / "prometheus/prometheus.yml").read_text()))
    shown = "".join(file.read_text() for file in UNITS.glob("*.service"))
    ports = re.findall(r"^Environment=METRICS_ADDRESS=127\.0\.0\.1:(.*)$", shown, re.MULTILINE)
    assert asked == {port.replace("%i", one) for port in ports for one in "12"}
