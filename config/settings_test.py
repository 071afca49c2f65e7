"""Settings of the tests: the same, with secrets that are not, and the stores tests/services.py started."""

import os

os.environ.setdefault("SECRET_KEY", "a-secret-for-tests-that-is-long-enough-for-hs256")
os.environ["DEBUG"] = "false"

from config.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SCRIPTED_PROVIDER = True
REQUIRE_VERIFIED_EMAIL = False  # those of confirmations switch it on
ADMIN_REQUIRES_SECOND_FACTOR = False  # those of the second factor switch it on
STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"  # noqa: F405
SERVESTATIC_USE_MANIFEST = False  # nothing is collected
CACHE_TTL = 0  # most tests count who was asked; those of the cache switch it on
MODEL_TITLES = False  # the same
MAIL_DIR = DATA_DIR / "caught"  # noqa: F405
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # noqa: F405  its middleware misses the folder when nothing was collected
for alias, database in DATABASES.items():  # noqa: F405
    if "sqlite3" not in database["ENGINE"]:  # which tests/services.py drops afterwards, on a server that is not its own
        database["TEST"] = {"NAME": f"{os.environ.get('TESTS_RUN', 'tests')}_{alias}"}
if MONGODB_URI:  # noqa: F405  a slow stand-in, beside other tests: one deletes ten thousand conversations
    DATABASES["history"]["OPTIONS"]["socketTimeoutMS"] = 60_000  # noqa: F405
