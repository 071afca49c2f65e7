"""Work beside the event loop."""

from datetime import UTC
from zoneinfo import ZoneInfo

from django.utils import timezone, translation

from core.threads import in_thread


def speaks() -> tuple[str | None, str]:
    found = translation.get_language(), timezone.get_current_timezone_name()
    translation.activate("es")  # nobody else hears of that
    timezone.activate(UTC)
    return found


async def test_a_thread_speaks_as_its_caller_does():
    for language in ("en", "pt-br", None):
        with translation.override(language), timezone.override(ZoneInfo("America/Lima")):
            for _ in range(3):
                assert await in_thread(speaks) == (language, "America/Lima")
            assert translation.get_language() == language
