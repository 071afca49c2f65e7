"""Settings: one file, driven by the environment. Every variable is listed in `.env.example`."""

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import environ
from csp.constants import NONCE
from django.core.exceptions import ImproperlyConfigured

from chat.provider_registry import API_KEY_SETTINGS
from config.private_files import create_private, make_private
from core.loopback import is_loopback
from core.origins import parse_origin

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
DATA_DIR = Path(env("DATA_DIR", default=str(BASE_DIR / "var")))
make_private(DATA_DIR)
DOTENV = BASE_DIR / ".env"
DOTENV_CHANGED_NS = DOTENV.stat().st_mtime_ns if DOTENV.exists() else 0
# Providers' keys may change while a process runs: one that is not in the real environment is read from `.env` again.
KEYS_IN_DOTENV = frozenset(name for name in API_KEY_SETTINGS if name not in os.environ)
logging.getLogger("environ.environ").setLevel(logging.ERROR)  # it would repeat a mistyped line, and the key in it
for source in (DOTENV, DATA_DIR / "services.env"):  # the second is written by `manage.py serve`
    if source.exists():
        env.read_env(source)

# --- Site ------------------------------------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=False)
SITE_NAME = env("SITE_NAME", default="Tertulia")
SITE_URL = env("SITE_URL", default="http://localhost:8000").rstrip("/")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)  # how many proxies in front add to X-Forwarded-For

SECRET_KEY = env("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY is not set. `make run` writes a .env with fresh secrets; see .env.example.")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])  # earlier ones, whose words still count
JWT_SECRET_KEY = env("JWT_SECRET_KEY", default="") or SECRET_KEY
JWT_SECRET_KEY_FALLBACKS = env.list("JWT_SECRET_KEY_FALLBACKS", default=[])  # former ones: tokens they signed are good

INSTALLED_APPS = [
    "config",
    "accounts",
    "djstripe",  # before billing, whose admin takes the place of its admin
    "billing",
    "history",
    "chat",
    "config.apps.OperatorAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "servestatic",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.github",
    "allauth.socialaccount.providers.google",
    "allauth.socialaccount.providers.microsoft",
    "allauth.socialaccount.providers.openid_connect",
    "csp",
    "rest_framework",
    "drf_spectacular",  # for `manage.py spectacular`, and `check --deploy`: it imports nothing else before it is asked
    "channels",
]

MIDDLEWARE = [
    "config.middleware.request_id",
    "django.middleware.security.SecurityMiddleware",
    "config.middleware.StaticFilesMiddleware",
    "config.cors.ApiCorsMiddleware",
    "config.middleware.private",  # after the static files, which may be kept
    "config.middleware.rate_limit",
    "config.middleware.CompressionMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.middleware.MemberMiddleware",
    "accounts.middleware.DevicesMiddleware",
    "accounts.middleware.RefusedFormMiddleware",
    "config.middleware.RefusalMiddleware",
    "config.middleware.too_large",
]

# Of the OpenAI-compatible API (config/asgi.py).
MIDDLEWARE_OF_PROGRAMS = [
    "config.middleware.request_id",
    "config.middleware.security_of_programs",
    "config.cors.ApiCorsMiddleware",
    "config.middleware.private",
    "config.middleware.rate_limit",
    "config.middleware.language_of_programs",
    "config.middleware.RefusalMiddleware",
    "config.middleware.too_large",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "accounts.context.page_context",
            ],
        },
    },
]

STATIC_URL = "static/"
# A proxy that serves them may not read DATA_DIR.
STATIC_ROOT = Path(env("STATIC_ROOT", default="") or DATA_DIR / "static")
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "config.static_files.SwaggerUiFinder",
]
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    # What people attach: served by a view that asks whose it is, never as files. Every process needs the same folder.
    "attachments": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": DATA_DIR / "attachments",
            "base_url": None,
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
    # Files that are imported, and exports of everything, for some days. Web and workers need the same folder.
    "transfers": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": DATA_DIR / "transfers",
            "base_url": None,
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
    # Names with a hash of the content, so that browsers may keep them for ever.
    "staticfiles": {"BACKEND": "config.static_files.StaticFilesStorage"},
}
SERVESTATIC_USE_FINDERS = SERVESTATIC_AUTOREFRESH = False  # with DEBUG the same as without
SERVESTATIC_USE_MANIFEST = True
SERVESTATIC_USE_STATIC_ROOT = True  # those of earlier releases too: a page that is open imports what it was made with
SERVESTATIC_MAX_AGE = 60

LANGUAGE_CODE = "es"
LANGUAGES = [("es", "Español"), ("en", "English"), ("pt-br", "Português (Brasil)")]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = "UTC"
USE_TZ = True

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = urlsplit(SITE_URL).scheme == "https"
SECURE_SSL_REDIRECT = False  # the proxy in front redirects
# Redirecting, subdomains and browsers' preload lists are the proxy's and its owner's decisions.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
SECURE_HSTS_SECONDS = 31_536_000 if SESSION_COOKIE_SECURE else 0
CSRF_TRUSTED_ORIGINS = [SITE_URL]
CSRF_FAILURE_VIEW = "config.pages.csrf_failure"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"

# Nothing inline, nothing from elsewhere: what a model writes can neither run nor call home.
CONTENT_SECURITY_POLICY: dict[str, dict[str, list[Any]]] = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'", NONCE],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "frame-src": ["'self'"],  # for diagrams, under a policy of their own (config/pages.py)
        "manifest-src": ["'self'"],
        # A checkout and a log-in elsewhere too: a page of ours leads on to it (accounts/social_views.py).
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    },
}

# --- Stores ----------------------------------------------------------------------------------------------------------


def address(name: str, example: str, *schemes: str, default: str = "") -> str:
    """Return a store's address. One of another kind is refused, and not shown: it may hold a password."""
    found: str = env(name, default="") or default
    if found and found.partition("://")[0] not in (example.partition("://")[0], *schemes):
        raise ImproperlyConfigured(f"{name} is not a valid address: it looks like {example}. Look at .env.")
    return found


REDIS_URL = address("REDIS_URL", "redis://host:6379/0", "rediss", "unix", default="redis://127.0.0.1:6379/0")


def sqlite_database(name: str) -> dict[str, Any]:
    # IMMEDIATE takes the write lock when a transaction begins: without it two readers that both turn writer
    # deadlock and one gets "database is locked" at once, whatever the timeout.
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": create_private(DATA_DIR / name),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
        },
        "TEST": {"NAME": DATA_DIR / f"test-{name}"},
    }


def postgresql_database(url: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = env.db_url_config(url)
    except (ValueError, ImproperlyConfigured):
        raise ImproperlyConfigured("DATABASE_URL is not a valid address: look at .env.") from None
    options = {
        # A pool, not persistent connections: under ASGI each request has a thread of its own, and would keep one open.
        "pool": {"max_size": env.int("DATABASE_POOL", default=16)},
        "connect_timeout": 3,
        "tcp_user_timeout": 10_000,  # milliseconds until what was sent must have arrived
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        **found.get("OPTIONS", {}),
    }
    return found | {"ENGINE": "core.postgresql", "OPTIONS": options, "DISABLE_SERVER_SIDE_CURSORS": True}


def postgresql_history(url: str) -> dict[str, Any]:
    # Without MongoDB the history shares PostgreSQL, in a schema (and migration table) of its own.
    database = postgresql_database(url) | {"TEST": {"NAME": "test_tertulia_history"}}
    return database | {"OPTIONS": {**database["OPTIONS"], "schema": "history"}}


def mongodb_database(uri: str) -> dict[str, Any]:
    # Each unless the address sets it. A write is acknowledged when it is in the journal. Limits are milliseconds:
    # pymongo waits 30 s for a server, and for ever for its answer.
    options = {
        "journal": True,
        "serverSelectionTimeoutMS": 3_000,
        "connectTimeoutMS": 2_000,
        "socketTimeoutMS": 15_000,
        "waitQueueTimeoutMS": 2_000,
    }
    given = {name.lower() for name, _value in parse_qsl(uri.partition("?")[2])}
    return {
        "ENGINE": "core.mongodb",
        "HOST": uri,
        "NAME": env("MONGODB_DATABASE", default="tertulia"),
        "OPTIONS": {name: value for name, value in options.items() if name.lower() not in given},
    }


MONGODB_URI = address("MONGODB_URI", "mongodb://host:27017/", "mongodb+srv")
DATABASE_URL = address("DATABASE_URL", "postgres://user:password@host:5432/tertulia", "postgresql", "psql", "pgsql")
if DATABASE_URL:
    DATABASES = {"default": postgresql_database(DATABASE_URL), "history": postgresql_history(DATABASE_URL)}
else:
    DATABASES = {"default": sqlite_database("tertulia.sqlite3"), "history": sqlite_database("history.sqlite3")}
MONGODB_SEARCH_INDEX = env("MONGODB_SEARCH_INDEX", default="")  # of Atlas Search, over the turns; empty: none is asked
SEARCH_BY_MEANING = env.bool("SEARCH_BY_MEANING", default=False)  # needs requirements-meaning.txt
if MONGODB_URI:
    DATABASES["history"] = mongodb_database(MONGODB_URI)
DATABASE_ROUTERS = ["config.database_routers.HistoryRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

BACKUP_RECIPIENT = env.list("BACKUP_RECIPIENT", default=[])  # public keys of age: who can open a backup

REDIS_POOL = env.int("REDIS_POOL", default=64)  # connections of a process: of its threads, and as many of its loop
# Seconds. The first is longer than a runner or a worker blocks for its queue; threads wait less.
REDIS_LIMITS = {"socket_timeout": 5, "socket_connect_timeout": 2}
CACHES = {"default": {"BACKEND": "core.redis_clients.Cache", "KEY_PREFIX": "cache"}}
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_AGE = env.int("SESSION_TTL", default=14 * 24 * 3600)

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            "hosts": [{"address": REDIS_URL, **REDIS_LIMITS}],
            "prefix": "layer",
        },
    },
}

CELERY_BROKER_URL = REDIS_URL
if REDIS_URL.startswith("unix://"):  # Celery has other words for it
    CELERY_BROKER_URL = REDIS_URL.replace("unix", "redis+socket", 1).replace("?db=", "?virtual_host=")
if REDIS_URL.startswith("rediss://"):  # by itself it would take any certificate
    CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": "required"}
CELERY_ACCEPT_CONTENT = ["json"]  # never pickles
CELERY_BROKER_TRANSPORT_OPTIONS = dict(REDIS_LIMITS)
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "beat-schedule")

# --- People ----------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]  # a ModelBackend, by e-mail
PASSWORD_HASHERS = ["accounts.hashers.PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("email", "name")},
    },
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "accounts.passwords.CommonPasswordValidator"},
    {"NAME": "accounts.passwords.OwnNamePasswordValidator"},
]
ACCOUNT_CLOSE_DAYS = env.int("ACCOUNT_CLOSE_DAYS", default=14)  # whoever closes their account can keep it for so long
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = ACCOUNT_LOGOUT_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_FORMS = {
    "signup": "accounts.forms.SignUpForm",
    "reset_password": "accounts.forms.ResetPasswordForm",
    "change_password": "accounts.forms.ChangePasswordForm",
    "add_email": "accounts.forms.ChangeEmailForm",
    "reauthenticate": "accounts.forms.PasswordAgainForm",
}
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_CHANGE_EMAIL = True  # one address: the new one replaces the old when it is confirmed
ACCOUNT_REAUTHENTICATION_REQUIRED = True  # to change it, the password is asked for again
ACCOUNT_EMAIL_NOTIFICATIONS = True  # "your password was changed"
ACCOUNT_CONFIRM_EMAIL_ON_GET = False  # mail scanners follow links
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True
ACCOUNT_SESSION_REMEMBER = True
MFA_ADAPTER = "accounts.adapter.SecondFactorAdapter"
MFA_FORMS = {
    "authenticate": "accounts.forms.CodeForm",
    "reauthenticate": "accounts.forms.CodeAgainForm",
    "activate_totp": "accounts.forms.ActivateCodesForm",
    "deactivate_totp": "accounts.forms.DeactivateCodesForm",
    "generate_recovery_codes": "accounts.forms.NewRecoveryCodesForm",
    "authenticate_webauthn": "accounts.forms.PasskeyForm",
    "login_webauthn": "accounts.forms.PasskeyAloneForm",
    "reauthenticate_webauthn": "accounts.forms.PasskeyAgainForm",
}
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_TOLERANCE = 1  # half a minute that a telephone's clock may be off
ADMIN_REQUIRES_SECOND_FACTOR = env.bool("ADMIN_REQUIRES_SECOND_FACTOR", default=not DEBUG)
MFA_ALLOW_UNVERIFIED_EMAIL = True  # accounts/second_factor.py asks for the member's own address to be confirmed

# Accounts elsewhere that let people in here (docs/sign-in.md): each where its id and its secret are set. `manage.py
# check` tells of one without the other. They are known to allauth by these settings alone, and by no rows.
GOOGLE_CLIENT_ID = env("GOOGLE_CLIENT_ID", default="")
GOOGLE_CLIENT_SECRET = env("GOOGLE_CLIENT_SECRET", default="")
GITHUB_CLIENT_ID = env("GITHUB_CLIENT_ID", default="")
GITHUB_CLIENT_SECRET = env("GITHUB_CLIENT_SECRET", default="")
MICROSOFT_CLIENT_ID = env("MICROSOFT_CLIENT_ID", default="")
MICROSOFT_CLIENT_SECRET = env("MICROSOFT_CLIENT_SECRET", default="")
MICROSOFT_TENANT = env("MICROSOFT_TENANT", default="common")  # common: any account; else one organisation's
OPENID_NAME = env("OPENID_NAME", default="OpenID")  # what the button says
OPENID_SERVER_URL = env("OPENID_SERVER_URL", default="").rstrip("/")
OPENID_CLIENT_ID = env("OPENID_CLIENT_ID", default="")
OPENID_CLIENT_SECRET = env("OPENID_CLIENT_SECRET", default="")
SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, Any]] = {}


def social_app(name: str, client_id: str, secret: str, provider_id: str = "", **more: str) -> dict[str, Any]:
    found = {"name": name, "client_id": client_id, "secret": secret, "provider_id": provider_id}
    return {"APPS": [found | {"settings": {"oauth_pkce_enabled": True, **more}}]}


if GOOGLE_CLIENT_ID and GOOGLE_CLIENT_SECRET:
    SOCIALACCOUNT_PROVIDERS["google"] = social_app("Google", GOOGLE_CLIENT_ID, GOOGLE_CLIENT_SECRET)
if GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET:
    SOCIALACCOUNT_PROVIDERS["github"] = social_app("GitHub", GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET)
if MICROSOFT_CLIENT_ID and MICROSOFT_CLIENT_SECRET:
    SOCIALACCOUNT_PROVIDERS["microsoft"] = social_app(
        "Microsoft", MICROSOFT_CLIENT_ID, MICROSOFT_CLIENT_SECRET, tenant=MICROSOFT_TENANT
    )
if OPENID_SERVER_URL and OPENID_CLIENT_ID and OPENID_CLIENT_SECRET:
    SOCIALACCOUNT_PROVIDERS["openid_connect"] = social_app(
        OPENID_NAME, OPENID_CLIENT_ID, OPENID_CLIENT_SECRET, "openid", server_url=OPENID_SERVER_URL
    )
SOCIALACCOUNT_ADAPTER = "accounts.social_adapter.SocialAdapter"
SOCIALACCOUNT_FORMS = {"signup": "accounts.social_forms.SocialSignUpForm"}
SOCIALACCOUNT_AUTO_SIGNUP = False  # the terms are accepted first
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False  # an address lets nobody in: docs/adr/0029-social-log-in.md
ACCOUNT_DEFAULT_HTTP_PROTOCOL = urlsplit(SITE_URL).scheme  # of the addresses that providers send people back to

ACCESS_TOKEN_EXPIRE_MINUTES = env.int("ACCESS_TOKEN_EXPIRE_MINUTES", default=30)
REFRESH_TOKEN_EXPIRE_DAYS = env.int("REFRESH_TOKEN_EXPIRE_DAYS", default=14)
SIGN_UPS_PER_HOUR = env.int("SIGN_UPS_PER_HOUR", default=30)  # from one network address
SIGN_UPS_PER_DAY = env.int("SIGN_UPS_PER_DAY", default=100)  # from one network address; 0: no limit
SIGN_UP = env("SIGN_UP", default="open")  # accounts/joining.py
if SIGN_UP not in ("open", "domains", "invitation", "closed"):
    raise ImproperlyConfigured("SIGN_UP is one of: open, domains, invitation, closed.")
SIGN_UP_DOMAINS = [domain.strip().lower().lstrip("@") for domain in env.list("SIGN_UP_DOMAINS", default=[])]
if SIGN_UP == "domains" and not SIGN_UP_DOMAINS:
    raise ImproperlyConfigured("SIGN_UP=domains needs SIGN_UP_DOMAINS: domains of e-mail addresses, with commas.")
REFUSE_DISPOSABLE_MAIL = env.bool("REFUSE_DISPOSABLE_MAIL", default=True)
ACCOUNT_RATE_LIMITS = False  # accounts/limits.py counts, for pages and API together
REQUIRE_VERIFIED_EMAIL = env.bool("REQUIRE_VERIFIED_EMAIL", default=not DEBUG or SIGN_UP == "domains")
if SIGN_UP == "domains" and not REQUIRE_VERIFIED_EMAIL:
    raise ImproperlyConfigured("SIGN_UP=domains needs REQUIRE_VERIFIED_EMAIL: else anybody writes such an address.")

# Without a mail server mail is kept in a folder, where `/mail/` shows it, and printed; outside DEBUG it is dropped.
HAS_MAIL_SERVER = bool(env("EMAIL_URL", default=""))
if HAS_MAIL_SERVER:
    mail_server = env.email_url("EMAIL_URL")
    EMAIL_BACKEND = mail_server["EMAIL_BACKEND"]
    EMAIL_HOST = mail_server["EMAIL_HOST"]
    EMAIL_PORT = mail_server["EMAIL_PORT"]
    EMAIL_HOST_USER = mail_server["EMAIL_HOST_USER"]
    EMAIL_HOST_PASSWORD = mail_server["EMAIL_HOST_PASSWORD"]
    EMAIL_USE_TLS = mail_server.get("EMAIL_USE_TLS", False)
    EMAIL_USE_SSL = mail_server.get("EMAIL_USE_SSL", False)
    EMAIL_FILE_PATH = mail_server["EMAIL_FILE_PATH"]
else:
    EMAIL_BACKEND = "config.mail.CaughtMail" if DEBUG else "django.core.mail.backends.dummy.EmailBackend"
EMAIL_TIMEOUT = 10
MAIL_DIR = DATA_DIR / "mail"
DEFAULT_FROM_EMAIL = env("DEFAULT_FROM_EMAIL", default=f"{SITE_NAME} <noreply@{urlsplit(SITE_URL).hostname}>")
OPERATOR_EMAIL = env.list("OPERATOR_EMAIL", default=[])  # who gets a mail when a provider refuses our key, and the like

# --- Payments --------------------------------------------------------------------------------------------------------

GRACE_DAYS = env.int("GRACE_DAYS", default=7)  # for so long a plan goes on after a renewal that was not paid yet
SITE_CURRENCY = env("SITE_CURRENCY", default="USD").upper()  # what the operator's dashboard adds up in
GATEWAYS: dict[str, str] = {}  # by name, where the gateway is made

STRIPE_SECRET_KEY = env("STRIPE_SECRET_KEY", default="")  # empty: nothing is sold through Stripe
if STRIPE_SECRET_KEY:
    GATEWAYS["stripe"] = "billing.gateways.stripe.gateway.StripeGateway"
STRIPE_PUBLIC_KEY = env("STRIPE_PUBLISHABLE_KEY", default="")
STRIPE_WEBHOOK_SECRETS = env.list("STRIPE_WEBHOOK_SECRET", default=[])  # two, while one takes the other's place
STRIPE_WEBHOOK_UUID = env("STRIPE_WEBHOOK_UUID", default="")  # a part of the webhook's address
STRIPE_LIVE_MODE = STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_"))
STRIPE_API_VERSION = "2026-05-27.dahlia"  # otherwise a newer SDK would change the shape of what Stripe sends
STRIPE_TAX = env.bool("STRIPE_TAX", default=False)  # whether Stripe reckons taxes; it must be set up there
if SIMULATED_STRIPE_URL := env("SIMULATED_STRIPE_URL", default=""):  # set by `manage.py serve`
    STRIPE_API_HOST = SIMULATED_STRIPE_URL
DJSTRIPE_FOREIGN_KEY_TO_FIELD = "id"
DJSTRIPE_SUBSCRIBER_MODEL = "billing.BillingAccount"
# One migration in place of its own, which take more than a minute.
MIGRATION_MODULES = {"djstripe": "billing.gateways.stripe.djstripe_migrations"}

MERCADOPAGO_ACCESS_TOKEN = env("MERCADOPAGO_ACCESS_TOKEN", default="")  # empty: nothing is sold through it
if MERCADOPAGO_ACCESS_TOKEN:
    GATEWAYS["mercadopago"] = "billing.gateways.mercadopago.gateway.from_settings"
MERCADOPAGO_WEBHOOK_SECRETS = env.list("MERCADOPAGO_WEBHOOK_SECRET", default=[])  # two, as above
MERCADOPAGO_COUNTRY = env("MERCADOPAGO_COUNTRY", default="").upper()  # AR, BR, CL, CO, MX, PE or UY: its currency
MERCADOPAGO_MODE = env("MERCADOPAGO_MODE", default="")  # test or live; a test account's tokens look like a real one's
SIMULATED_MERCADOPAGO_URL = env("SIMULATED_MERCADOPAGO_URL", default="")  # set by `manage.py serve`
MERCADOPAGO_TEST_PAYER = env("MERCADOPAGO_TEST_PAYER", default="")  # for `make smoke-payments`

# --- Answers ---------------------------------------------------------------------------------------------------------

MAX_TOKENS = env.int("MAX_TOKENS", default=8192)  # the longest answer of any model on any plan
TRASH_DAYS = env.int("TRASH_DAYS", default=30)  # a conversation stays in the trash for so long, then it is erased
CACHE_TTL = env.int("CACHE_TTL", default=3600)  # seconds an answer is kept for the same question; 0: none is
MODEL_TITLES = env.bool("MODEL_TITLES", default=True)  # the cheapest model names conversations; else their first words
DEFAULT_LLM = env("DEFAULT_LLM", default="")  # the model when none is named; empty: Auto chooses

# Keys: several separated by commas. `…_API_KEY_FILE` names a file with them instead, such as a mounted secret.
OPENAI_API_KEY = env("OPENAI_API_KEY", default="")
OPENAI_API_KEY_FILE = env("OPENAI_API_KEY_FILE", default="")
OPENAI_BASE_URL = env("OPENAI_BASE_URL", default="https://api.openai.com/v1")
ANTHROPIC_API_KEY = env("ANTHROPIC_API_KEY", default="")
ANTHROPIC_API_KEY_FILE = env("ANTHROPIC_API_KEY_FILE", default="")
ANTHROPIC_BASE_URL = env("ANTHROPIC_BASE_URL", default="https://api.anthropic.com")
GEMINI_API_KEY = env("GEMINI_API_KEY", default="")
GEMINI_API_KEY_FILE = env("GEMINI_API_KEY_FILE", default="")
GEMINI_BASE_URL = env("GEMINI_BASE_URL", default="https://generativelanguage.googleapis.com/v1beta")
DEEPSEEK_API_KEY = env("DEEPSEEK_API_KEY", default="")
DEEPSEEK_API_KEY_FILE = env("DEEPSEEK_API_KEY_FILE", default="")
DEEPSEEK_BASE_URL = env("DEEPSEEK_BASE_URL", default="https://api.deepseek.com")
OPENAI_COMPATIBLE_BASE_URL = env("OPENAI_COMPATIBLE_BASE_URL", default="")
OPENAI_COMPATIBLE_API_KEY = env("OPENAI_COMPATIBLE_API_KEY", default="")
OPENAI_COMPATIBLE_API_KEY_FILE = env("OPENAI_COMPATIBLE_API_KEY_FILE", default="")
OPENAI_COMPATIBLE_MODELS = env.list("OPENAI_COMPATIBLE_MODELS", default=[])
OPENAI_COMPATIBLE_CONTEXT = env.int("OPENAI_COMPATIBLE_CONTEXT", default=32_768)
OPENAI_COMPATIBLE_INPUT_PRICE = env.float("OPENAI_COMPATIBLE_INPUT_PRICE", default=0.0)  # US dollars a million tokens
OPENAI_COMPATIBLE_OUTPUT_PRICE = env.float("OPENAI_COMPATIBLE_OUTPUT_PRICE", default=0.0)
DEMO_MODEL_URL = env("DEMO_MODEL_URL", default="")  # set by `manage.py serve`
for name in KEYS_IN_DOTENV:
    os.environ.pop(name, None)  # a child that inherited it would take it for the real environment's

# Providers whose answers are read by their official SDK: it costs more processor, and knows every new kind of event.
SDK_PROVIDERS = env.list("SDK_PROVIDERS", default=[])
SCRIPTED_PROVIDER = False  # tests switch it on
FIRST_TOKEN_SECONDS = env.float("FIRST_TOKEN_SECONDS", default=30)  # until a provider shows a sign of life
STALL_SECONDS = env.float("STALL_SECONDS", default=60)  # longest silence inside an answer
LOADING_SECONDS = env.float("LOADING_SECONDS", default=300)  # longest time with signs of life and no text
TURN_SECONDS = env.float("TURN_SECONDS", default=900)  # longest answer
QUEUE_SECONDS = env.float("QUEUE_SECONDS", default=300)  # longest wait for a runner
QUEUE_LIMIT = env.int("QUEUE_LIMIT", default=500)  # turns of the site that may wait for a runner
DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=30)  # how long a stopping process finishes what it has
RUNNER_CAPACITY = env.int("RUNNER_CAPACITY", default=500)  # turns at once in one runner

# --- Attachments -----------------------------------------------------------------------------------------------------

ATTACHMENT_BYTES = env.int("ATTACHMENT_BYTES", default=20 * 1024 * 1024)  # the largest file
ATTACHMENTS_BYTES = env.int("ATTACHMENTS_BYTES", default=40_000_000)  # all files of one question
ATTACHMENTS_PER_QUESTION = env.int("ATTACHMENTS_PER_QUESTION", default=8)
ATTACHMENTS_PER_HOUR = env.int("ATTACHMENTS_PER_HOUR", default=120)  # uploaded, by one person
ATTACHMENTS_PENDING = env.int("ATTACHMENTS_PENDING", default=40)  # uploaded and not yet asked about, of one person
ATTACHMENT_PIXELS = env.int("ATTACHMENT_PIXELS", default=40_000_000)
ATTACHMENT_PAGES = env.int("ATTACHMENT_PAGES", default=200)
ATTACHMENT_CHARACTERS = env.int("ATTACHMENT_CHARACTERS", default=400_000)  # of text, read from one file
ATTACHMENT_SECONDS = env.int("ATTACHMENT_SECONDS", default=20)  # of processor, to read one file

# --- Import and export -----------------------------------------------------------------------------------------------

IMPORT_BYTES = env.int("IMPORT_BYTES", default=230 * 1024 * 1024)  # the largest file; config/bodies.py has room for it
IMPORT_SECONDS = env.int("IMPORT_SECONDS", default=300)  # of processor, to read one file
IMPORTS_PER_DAY = env.int("IMPORTS_PER_DAY", default=20)  # of one person
IMPORTED_BYTES_PER_DAY = env.int("IMPORTED_BYTES_PER_DAY", default=1_000_000_000)  # unpacked; beyond, no more files
EXPORT_DAYS = env.int("EXPORT_DAYS", default=7)  # an export of everything is kept

# --- Batches ---------------------------------------------------------------------------------------------------------

BATCH_BYTES = env.int("BATCH_BYTES", default=100 * 1024 * 1024)  # the largest file; config/bodies.py has room for it
BATCH_LINES = env.int("BATCH_LINES", default=50_000)  # of one file
BATCHES_AT_ONCE = env.int("BATCHES_AT_ONCE", default=10)  # of one person that are not over
BATCH_DAYS = env.int("BATCH_DAYS", default=30)  # results are kept
BATCH_WEBHOOKS_INSIDE = env.bool("BATCH_WEBHOOKS_INSIDE", default=False)  # webhooks may go into our own network

# --- API -------------------------------------------------------------------------------------------------------------

# Pages of these sites may use the API from a browser, with a token or a key and never with cookies.
try:
    CORS_ALLOWED_ORIGINS = [parse_origin(origin) for origin in env.list("CORS_ALLOWED_ORIGINS", default=[])]
except ValueError as error:
    raise ImproperlyConfigured(
        f"CORS_ALLOWED_ORIGINS has {error}, which is no origin. Write them like https://app.example.com, with commas."
    ) from error
CORS_URLS_REGEX = r"^/(api/v1|v1)/"
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_HEADERS = (
    *("accept", "accept-language", "authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id"),
    # What OpenAI's SDK sends from a browser.
    *(f"x-stainless-{name}" for name in ("arch", "helper-method", "lang", "os", "package-version", "retry-count")),
    *(f"x-stainless-{name}" for name in ("runtime", "runtime-version", "timeout")),
    *("openai-organization", "openai-project"),
)
CORS_EXPOSE_HEADERS = (
    *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"),
    *("x-cost-micros", "x-request-id", "x-should-retry"),
)
API_REQUESTS_PER_MINUTE = env.int("API_REQUESTS_PER_MINUTE", default=600)  # of one person; 0: no limit
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.keys.KeyAuthentication",
        "accounts.tokens.TokenAuthentication",
        "accounts.leaving.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "billing.api.permissions.PlanHasApi",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["billing.api.throttling.RequestThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["config.parsers.StrictJsonParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "config.parsers.OneFormat",
    "EXCEPTION_HANDLER": "config.api.exception_handler",
}
# What the OpenAPI documents are made by, and of (config/openapi/).
SPECTACULAR_SETTINGS = {
    "DEFAULT_GENERATOR_CLASS": "config.openapi.generation.Generator",
    "OAS_VERSION": "3.1.0",
    "PREPROCESSING_HOOKS": ["config.openapi.generation.only_documented"],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_SUFFIX": "",
    "ENUM_NAME_OVERRIDES": {
        "TurnStatus": "history.models.Turn.Status",
        "ImportStatus": "history.models.Import.Status",
        "ExportStatus": "history.models.Export.Status",
        "BatchStatus": "chat.models.Batch.Status",
        "FileStatus": "chat.models.Attachment.Status",
        "FileKind": "chat.models.Attachment.Kind",
        "KeyScope": "accounts.models.ApiKey.Scope",
    },
    "TITLE": SITE_NAME,
    "VERSION": "1",
}
SIMPLE_JWT = {
    "SIGNING_KEY": JWT_SECRET_KEY,
    "AUTH_TOKEN_CLASSES": ("accounts.tokens.AccessToken",),
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=ACCESS_TOKEN_EXPIRE_MINUTES),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=REFRESH_TOKEN_EXPIRE_DAYS),
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440  # bytes; a longer body is a 413
FILE_UPLOAD_MAX_MEMORY_SIZE = 65_536  # what comes of a body waits on disk beyond this: many may come at once

# --- Watching --------------------------------------------------------------------------------------------------------

METRICS_TOKEN = env("METRICS_TOKEN", default="")  # what Prometheus shows as its bearer token
METRICS_ADDRESS: tuple[str, int] | None = None  # of this process: each has its own
if given := env("METRICS_ADDRESS", default=""):
    metrics_host, _, metrics_port = given.rpartition(":")
    if not metrics_host or not metrics_port.isdecimal() or not 0 < int(metrics_port) < 65_536:
        raise ImproperlyConfigured("METRICS_ADDRESS is not a valid address: it looks like 127.0.0.1:9401.")
    if not METRICS_TOKEN and not is_loopback(metrics_host.strip("[]")):
        raise ImproperlyConfigured("METRICS_ADDRESS can be reached by other machines: set METRICS_TOKEN, too.")
    METRICS_ADDRESS = (metrics_host.strip("[]"), int(metrics_port))

SENTRY_DSN = env("SENTRY_DSN", default="")  # empty: errors are in the logs alone
OTEL_EXPORTER_OTLP_ENDPOINT = env("OTEL_EXPORTER_OTLP_ENDPOINT", default="")  # empty: there are no traces
OTEL_TRACES_PER_THOUSAND = env.int("OTEL_TRACES_PER_THOUSAND", default=1000)  # of the requests

# --- Logs ------------------------------------------------------------------------------------------------------------

LOG_FORMAT = env("LOG_FORMAT", default="text" if DEBUG else "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "config.logging.JsonFormatter"},
        "text": {"()": "config.logging.TextFormatter"},
    },
    # A 503 is an answer: of /readyz while something is away, of the API while a store is.
    "filters": {
        "unexpected": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", 0) != 503,
        },
        "short": {"()": "config.logging.ShortRefusals"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["short"]}},
    "root": {"handlers": ["console"], "level": env("LOG_LEVEL", default="INFO")},
    "loggers": {
        "celery": {"level": "WARNING"},  # not each task
        "django.server": {"handlers": [], "propagate": True},
        "django.channels.server": {"level": "WARNING"},
        "django.request": {"level": "ERROR", "filters": ["unexpected"]},
        "environ.environ": {"level": "ERROR"},
        "httpx2": {"level": "WARNING"},
        "pymongo": {"level": "WARNING"},  # below it, whole documents: what people write
        "stripe": {"level": "WARNING"},  # otherwise two lines for each request
        "uvicorn.error": {"level": "ERROR"},  # not each bad request that a stranger sends
    },
}
