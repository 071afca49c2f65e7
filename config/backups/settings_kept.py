"""The settings of the site, for a backup: whoever builds it anew sees how it was. What is secret is left out."""

import os
import re
from urllib.parse import urlsplit

from django.conf import settings

SETTING = re.compile(r"^# ([A-Z][A-Z0-9_]+)=", re.MULTILINE)
"""A line of `.env.example`."""
SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|FALLBACKS|DSN)$")


def list_settings() -> bytes:
    """Return the settings that are set, as a file of the environment."""
    names = SETTING.findall((settings.BASE_DIR / ".env.example").read_text())
    given = {name: str(getattr(settings, name, "")) for name in settings.KEYS_IN_DOTENV} | os.environ
    return "".join(f"{name}={_shown(name, given[name])}\n" for name in names if given.get(name)).encode()


def _shown(name: str, value: str) -> str:
    """Return the value; of a secret that it is there, of an address what leads nobody in."""
    if SECRET.search(name):
        return "(secret)"
    if "://" not in value:
        return value
    return ",".join(map(_without_secrets, value.split(",")))


def _without_secrets(address: str) -> str:
    try:
        found = urlsplit(address.strip())
        host = found.netloc.rpartition("@")[2]
    except ValueError:
        return "(no valid address)"
    if "@" in found.path + found.query + found.fragment:  # a password that is not escaped ended the host
        return "(no valid address)"
    return f"{found.scheme}://{host}{found.path}"
