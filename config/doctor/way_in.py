"""The way people come in: asked from here through SITE_URL, so through whatever stands before the site."""

import time
from collections.abc import Iterator
from secrets import token_urlsafe

import msgspec
import requests
from django.conf import settings
from django.urls import reverse

from config.doctor.findings import Finding, either, fail, ok
from config.probed import FORGED, GAP_SECONDS, Seen, allow_probe

SECONDS = 10
ELSEWHERE = "Something else answers there, or a site with another Redis: look at SITE_URL and at the proxy."


def examine_way_in() -> Iterator[Finding]:
    token = token_urlsafe()
    allow_probe(token)
    url = settings.SITE_URL + reverse("probed", args=[token])
    try:
        with requests.get(
            url, headers={"X-Forwarded-For": FORGED}, stream=True, timeout=SECONDS, allow_redirects=False
        ) as answer:
            if answer.status_code == 200:
                yield from _judge_stream(answer)
                return
            yield _judge_status(answer.status_code)
    except requests.RequestException as error:
        yield fail(
            "SITE_URL",
            f"{settings.SITE_URL} is not reached from here ({type(error).__name__}).",
            "Start web and proxy; look at the name's address, the port and the certificate.",
        )


def _judge_status(status: int) -> Finding:
    remedies = {
        400: "Put the host of SITE_URL into ALLOWED_HOSTS.",
        404: ELSEWHERE,
        502: "The proxy does not reach web: start “manage.py run_web”.",
    }
    if 300 <= status < 400:
        return fail("SITE_URL", "It is redirected.", "Set SITE_URL to the address it is redirected to.")
    return fail("SITE_URL", f"It answers {status}.", remedies.get(status, "Look at the logs of proxy and web."))


def _judge_stream(answer: requests.Response) -> Iterator[Finding]:
    lines = answer.iter_lines(chunk_size=1)  # otherwise an answer without chunks is read to its end
    try:
        seen = msgspec.json.decode(next(lines, b""), type=Seen)
    except msgspec.DecodeError:  # it answers 200 whatever it is asked
        yield fail("SITE_URL", "What it answers is not web's.", ELSEWHERE)
        return
    begun = time.monotonic()
    for _line in lines:
        pass
    seconds = time.monotonic() - begun
    yield ok("SITE_URL", f"leads here: {settings.SITE_URL}")
    yield either(
        seconds > GAP_SECONDS / 2,
        ok("proxy, streams", "come as they are written"),
        fail(
            "proxy, streams",
            "The proxy holds answers back until they are whole.",
            "Let it heed X-Accel-Buffering, or switch its buffering off for event streams (proxy_buffering off).",
        ),
    )
    yield from _judge_addresses(seen)
    yield either(
        seen.is_secure or not settings.SITE_URL.startswith("https"),
        ok("proxy, https", "is known to web" if seen.is_secure else "SITE_URL is http"),
        fail(
            "proxy, https",
            "Web does not learn that requests come over https, and refuses forms.",
            "Let the proxy set X-Forwarded-Proto, and TRUSTED_PROXIES be the number of proxies.",
        ),
    )


def _judge_addresses(seen: Seen) -> Iterator[Finding]:
    if seen.peer == FORGED:
        yield fail(
            "proxy, addresses",
            "Anybody can claim any address, and so get past every limit: web believed one that doctor made up.",
            "Set TRUSTED_PROXIES to the number of proxies that add to X-Forwarded-For; 0 if there is none.",
        )
    elif seen.added > settings.TRUSTED_PROXIES:
        yield fail(
            "proxy, addresses",
            f"Web takes a proxy for everybody: {seen.added} add to X-Forwarded-For, and TRUSTED_PROXIES is "
            f"{settings.TRUSTED_PROXIES}.",
            "Set TRUSTED_PROXIES to the number of proxies that do.",
        )
    else:
        yield ok("proxy, addresses", f"this machine is {seen.peer}")


def examine_webhooks() -> Iterator[Finding]:
    """Send each webhook a forged notification: it must come to us, and be refused."""
    if "stripe" in settings.GATEWAYS and settings.STRIPE_WEBHOOK_UUID:
        yield _examine_webhook("Stripe", reverse("stripe_webhook", args=[settings.STRIPE_WEBHOOK_UUID]), 400)
    if "mercadopago" in settings.GATEWAYS:
        yield _examine_webhook("Mercado Pago", reverse("mercadopago_webhook"), 401)


def _examine_webhook(name: str, path: str, refusal: int) -> Finding:
    subject, url = f"webhook of {name}", settings.SITE_URL + path
    try:
        status = requests.post(url, data=b"{}", timeout=SECONDS, allow_redirects=False).status_code
        said = f"{url} answers {status}, where a forged notification is a {refusal}"
    except requests.RequestException as error:
        status, said = 0, f"{url} is not reached from here ({type(error).__name__})"
    return either(
        status == refusal,
        ok(subject, "comes in, and forged notifications are refused"),
        fail(
            subject,
            f"{said}: nobody's payment is noticed before the next comparison.",
            "Let the proxy pass this address on, without a log-in, a redirect or a change of the body.",
        ),
    )
