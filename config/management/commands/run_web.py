"""`manage.py run_web`: one web process, with the limits of its connections."""

import os
import resource
import sys
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.connections import MAX_CONNECTIONS, ClientConnection, ClientSocket, WebServer
from core.preparation import NotPrepared, check_prepared

STARTUP_FAILURE = 3
"""The status by which uvicorn's own command says so."""
FILES_BESIDE = 500
"""Open files of a process that are no clients' connections: of stores, pools, threads, uploads."""

UNREAD_SECONDS = 5
"""How long a process that ends waits for who does not take the rest of an answer."""


class Command(BaseCommand):
    help = "Serve pages, API and sockets, until SIGTERM or Ctrl-C."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST") or "127.0.0.1")
        parser.add_argument("--port", type=int, default=os.environ.get("PORT") or 8000)

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            check_prepared()
        except NotPrepared as error:
            raise CommandError(str(error)) from None
        allow_open_files(MAX_CONNECTIONS + FILES_BESIDE)
        config = uvicorn.Config(
            "config.asgi:application",
            host=options["host"],
            port=options["port"],
            loop="uvloop",
            http=ClientConnection,
            ws=ClientSocket,
            ws_per_message_deflate=False,
            ws_max_size=1_048_576,
            timeout_graceful_shutdown=round(settings.DRAIN_SECONDS) + UNREAD_SECONDS,
            proxy_headers=False,  # else it believes any proxy on this machine: TRUSTED_PROXIES says
            access_log=False,
            log_config=None,  # as in settings.py
        )
        server = WebServer(config)
        with suppress(KeyboardInterrupt):
            server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def allow_open_files(wanted: int) -> None:
    """Raise this process's own limit as far as the system lets it: often it is 1,024, below what may be raised to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
