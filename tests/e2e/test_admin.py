"""The admin, as Chromium shows it: every page its registry leads to, with a row of every model.

The pages are made in this process and handed to the browser, so that no site needs to run.
"""

import asyncio
import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from axe_playwright_python.async_playwright import Axe
from django.contrib import admin
from django.contrib.staticfiles import finders
from django.db import models
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from djstripe.models import Charge, Invoice
from playwright.async_api import Browser, Page

from accounts.models import User
from billing.admin.acts import ActsAdmin
from billing.models import Payment, Price, Subscription, UsagePeriod
from tests.e2e.browsing import picture

EVERY = 1 if os.environ.get("SOAK") == "1" else 4
"""One page in so many is looked at for its colours, which come from few style sheets, and take most of the time."""
TABS = 3
"""Pages that are looked at side by side."""
FIELDS: dict[type[models.Model], dict[str, Any]] = {
    Price: {"interval": "month", "currency": "USD", "pack_credits": 0, "pack_months": 0},
    Subscription: {"kind": "subscription", "status": "active", "gateway": "stripe"},
    Payment: {"status": "paid", "currency": "USD", "amount_minor": 2_000, "refund_requested_at": timezone.now()},
    Invoice: {"stripe_data": {"total": 2_000, "currency": "usd"}},
    Charge: {"stripe_data": {"amount": 2_000, "currency": "usd"}},
    UsagePeriod: {"period_start": timezone.now() - dt.timedelta(days=1)},
}
"""What a row must have that its fields do not say."""


def row_of(model: type[models.Model]) -> models.Model:
    """Return a row of a model; makes one, and those it refers to, where there is none."""
    if (found := model._default_manager.first()) is not None:
        return found
    return model._default_manager.create(
        **{field.name: value_for(field) for field in model._meta.concrete_fields if not field.has_default()}
        | FIELDS.get(model, {})
    )


def value_for(field: Any) -> Any:
    match field:
        case models.ForeignKey():
            return field.related_model._default_manager.first() if field.null else row_of(field.related_model)
        case models.UUIDField():
            return uuid4()
        case models.DateTimeField():
            return timezone.now()
        case models.DateField():
            return timezone.now().date()
        case models.BooleanField():
            return False
        case models.JSONField():
            return {}
        case models.AutoField() | models.BinaryField():
            return None
        case models.IntegerField() | models.DecimalField():
            return 1
        case _ if field.choices:
            return field.choices[0][0]
        case _:
            return "" if field.blank else "x"


def list_paths(operator: User) -> list[str]:
    """Return every page with something to fill in, and the admin's own."""
    request = RequestFactory().get("/admin/")
    request.user = operator
    paths = [
        reverse(f"admin:{name}") for name in ("index", "live", "billing_payment_dashboard", "chat_languagemodel_health")
    ]
    for model, model_admin in admin.site._registry.items():
        row = row_of(model)
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        paths += [reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[row.pk])]
        if model_admin.has_add_permission(request):
            paths.append(reverse(f"{name}_add"))
        if isinstance(model_admin, ActsAdmin):
            paths += [
                reverse(f"{name}_act", args=[row.pk, act.name]) for act in model_admin.acts if act.is_offered(row)
            ]
    member = [User.objects.create(email="member@example.com").pk]  # of themselves nobody changes all there
    names = ("accounts_user_change", "accounts_user_delete", "accounts_user_history", "auth_user_password_change")
    return [*paths, *(reverse(f"admin:{name}", args=member) for name in names)]


@pytest.fixture
def client(olga: User, settings: Any) -> Client:
    settings.STRIPE_SECRET_KEY = "sk_test_of_the_admin"
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    return client


@contextmanager
def serve(client: Client, paths: list[str]) -> Iterator[str]:
    """Serve the pages as they are now, and the static files, and return the address."""
    answers = {path: client.get(path) for path in [*paths, reverse("admin:jsi18n")]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            file = finders.find(self.path[8:]) if self.path.startswith("/static/") else None
            answer = answers.get(self.path)
            if answer is not None:
                body, headers = answer.content, dict(answer.headers)
            elif file:
                kind, _encoding = guess_type(str(file))
                body = Path(str(file)).read_bytes()
                headers = {"Content-Type": kind or "", "Cache-Control": "max-age=600"}
            else:
                return self.send_error(404)
            self.send_response(200 if answer is None else answer.status_code)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


STILL = """
addEventListener("DOMContentLoaded", () => {
  const still = new CSSStyleSheet();
  still.replaceSync("*, *::before, *::after { transition: none !important }");
  document.adoptedStyleSheets.push(still);
});
"""
"""Colours on their way are others."""
CONTRAST = "axe.run({resultTypes: ['violations'], preload: false, runOnly: ['color-contrast']})"


async def violations(page: Page, path: str, *, has_colours: bool) -> list[str]:
    """Return what axe finds, and if wanted of colours in both themes: page, theme, rule and place."""
    answer = await page.goto(path)
    found = [] if answer is not None and answer.status == 200 else [f"{path}: {answer}"]
    await picture(page, path.strip("/").replace("/", "-"))
    rules = {"color-contrast": {"enabled": has_colours}}
    options = {"resultTypes": ["violations"], "preload": False, "rules": rules}
    results = {"light": (await Axe().run(page, options=options)).response}
    if has_colours:
        await page.emulate_media(color_scheme="dark")
        results["dark"] = await page.evaluate(CONTRAST)
        await page.emulate_media(color_scheme="light")
    for theme, result in results.items():
        for one in result["violations"]:
            found += [f"{path}: {theme}: {one['id']}: {node['target']}" for node in one["nodes"]]
    return found


async def look_at(browser: Browser, site: str, paths: list[str], **options: Any) -> list[str]:
    """Return what is wrong with the pages, several of which are looked at side by side."""
    waiting, found = list(enumerate(paths)), []

    async def look(page: Page) -> None:
        while waiting:
            place, path = waiting.pop()
            found.extend(await violations(page, path, has_colours=place % EVERY == 0))

    context = await browser.new_context(base_url=site, **{"viewport": {"width": 1440, "height": 900}} | options)
    try:
        await context.add_init_script(STILL)
        await asyncio.gather(*[look(await context.new_page()) for _ in range(TABS)])
    finally:
        await context.close()
    return sorted(found)


@pytest.fixture
def paths(olga: User, client: Client) -> list[str]:
    return list_paths(olga)


@pytest.fixture
def site(client: Client, paths: list[str]) -> Iterator[str]:
    with serve(client, paths) as address:
        yield address


@pytest.mark.soak
async def test_axe_finds_nothing_in_the_admin(browser: Browser, site: str, paths: list[str]) -> None:
    assert await look_at(browser, site, paths) == []
