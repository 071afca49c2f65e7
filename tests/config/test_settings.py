"""The settings: each is assigned by its own name, so that a search for the name finds it."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

READ_MAIL_SETTINGS = """
import json
from config import settings
names = ("BACKEND", "HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL", "TIMEOUT", "FILE_PATH")
print(json.dumps({name: getattr(settings, f"EMAIL_{name}", "Django's") for name in names}))
"""


def test_no_setting_is_assigned_by_a_computed_name():
    tree = ast.parse((ROOT / "config" / "settings.py").read_text())
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"vars", "globals", "locals", "setattr", "exec"}


def test_one_address_describes_the_mail_server(tmp_path: Path):
    assert mail_settings("smtp+tls://user:pass%40word@mail.example.com:587", tmp_path) == {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "HOST": "mail.example.com",
        "PORT": 587,
        "HOST_USER": "user",
        "HOST_PASSWORD": "pass@word",
        "USE_TLS": True,
        "USE_SSL": False,
        "TIMEOUT": 10,
        "FILE_PATH": "",
    }


def test_a_mail_server_may_want_tls_from_the_first_byte(tmp_path: Path):
    found = mail_settings("smtp+ssl://mail.example.com:465", tmp_path)
    assert (found["USE_TLS"], found["USE_SSL"]) == (False, True)


def test_without_a_mail_server_only_the_backend_is_ours(tmp_path: Path):
    found = mail_settings("", tmp_path)
    assert found.pop("BACKEND") == "django.core.mail.backends.dummy.EmailBackend"
    assert found.pop("TIMEOUT") == 10
    assert set(found.values()) == {"Django's"}


READ_HISTORY_SETTINGS = """
import json
from config import settings
print(json.dumps(settings.DATABASES["history"]["OPTIONS"]))
"""


def test_mongodb_is_not_waited_for_longer_than_its_address_says(tmp_path: Path):
    uri = "mongodb://one:1,two:2/?replicaSet=x&serversELECTIONTimeoutMS=70"
    environment = {"SECRET_KEY": "x" * 50, "DATA_DIR": str(tmp_path), "MONGODB_URI": uri}
    command = [sys.executable, "-c", READ_HISTORY_SETTINGS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == {"journal", "connectTimeoutMS", "socketTimeoutMS", "waitQueueTimeoutMS"}


def mail_settings(url: str, data_dir: Path) -> dict[str, Any]:
    environment = {"SECRET_KEY": "x" * 50, "DEBUG": "false", "EMAIL_URL": url, "DATA_DIR": str(data_dir)}
    command = [sys.executable, "-c", READ_MAIL_SETTINGS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


READ_BROKERS = """
import json, os, runpy, sys
from kombu import Connection

brokers = []
for os.environ["REDIS_URL"] in sys.argv[1:]:
    settings = runpy.run_module("config.settings")
    with Connection(settings["CELERY_BROKER_URL"], ssl=settings.get("CELERY_BROKER_USE_SSL", False)) as connection:
        brokers.append([connection.as_uri(include_password=True), connection.ssl])
print(json.dumps(brokers))
"""


def test_celery_finds_redis_where_the_others_do_and_believes_no_certificate_more(tmp_path: Path):
    addresses: dict[str, tuple[str, object]] = {
        "redis://:pw@host:6379/1": ("redis://:pw@host:6379/1", False),
        "unix://user:pw@/run/redis.sock?db=1": ("redis+socket://user:pw@/run/redis.sock?virtual_host=1", False),
        "rediss://user:pw@host:6380/0": ("rediss://user:pw@host:6380/0", {"ssl_cert_reqs": "required"}),
        "rediss://host:6380/0?ssl_ca_certs=/ca.pem": ("rediss://host:6380/0", {"ssl_ca_certs": "/ca.pem"}),
    }
    environment = {"SECRET_KEY": "x" * 50, "DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", READ_BROKERS, *addresses]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert [tuple(broker) for broker in json.loads(done.stdout)] == list(addresses.values())


READ_PROVIDERS = """
import json
from config import settings
found = {kind: one["APPS"][0] for kind, one in settings.SOCIALACCOUNT_PROVIDERS.items()}
print(json.dumps([found, settings.SOCIALACCOUNT_STORE_TOKENS, settings.SOCIALACCOUNT_LOGIN_ON_GET]))
"""


def test_a_provider_of_accounts_is_switched_on_by_both_of_its_settings(tmp_path: Path):
    environment = {"SECRET_KEY": "x" * 50, "DATA_DIR": str(tmp_path), "GITHUB_CLIENT_ID": "half"}
    environment |= {"MICROSOFT_CLIENT_ID": "id", "MICROSOFT_CLIENT_SECRET": "secret", "OPENID_NAME": "House"}
    environment |= {"OPENID_CLIENT_ID": "i", "OPENID_CLIENT_SECRET": "s", "OPENID_SERVER_URL": "https://id.example/"}
    command = [sys.executable, "-c", READ_PROVIDERS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found, *kept = json.loads(done.stdout)
    assert kept == [False, False]
    assert {kind: (app["name"], app["client_id"]) for kind, app in found.items()} == {
        "microsoft": ("Microsoft", "id"),
        "openid_connect": ("House", "i"),
    }
    assert found["microsoft"]["settings"] == {"oauth_pkce_enabled": True, "tenant": "common"}
    assert found["openid_connect"]["settings"]["server_url"] == "https://id.example"


def test_people_of_a_domain_prove_that_its_mail_reaches_them(tmp_path: Path):
    environment = {"SECRET_KEY": "x" * 50, "DATA_DIR": str(tmp_path), "DEBUG": "true", "SIGN_UP": "domains"}
    environment |= {"SIGN_UP_DOMAINS": "example.com"}
    command = [sys.executable, "-c", "from config import settings; print(settings.REQUIRE_VERIFIED_EMAIL)"]
    for more, said in (({}, "True"), ({"REQUIRE_VERIFIED_EMAIL": "false"}, "SIGN_UP=domains needs")):
        done = subprocess.run(command, cwd=ROOT, env=environment | more, capture_output=True, text=True, check=False)
        assert said in done.stdout + done.stderr


def test_figures_are_shown_at_a_valid_address_and_to_others_with_a_token_alone(tmp_path: Path):
    def refusal(address: str, token: str = "") -> str:
        env = {
            "DATA_DIR": str(tmp_path),
            "SECRET_KEY": "planted",
            "METRICS_ADDRESS": address,
            "METRICS_TOKEN": token,
        }
        program = [sys.executable, "-c", "from config import settings"]
        return subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, check=False).stderr

    for address in ("127.0.0.1:9401", "[::1]:9401"):
        assert refusal(address) == ""
    assert refusal("0.0.0.0:9400", "token") == ""
    assert "set METRICS_TOKEN, too" in refusal("0.0.0.0:9400")
    for address in ("9401", "127.0.0.1", "127.0.0.1:94110", "127.0.0.1:0"):
        assert "METRICS_ADDRESS is not a valid address" in refusal(address), address
