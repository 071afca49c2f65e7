"""The folder of static files, which the middleware misses when nothing was collected."""

from pathlib import Path

from django.conf import settings

Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
