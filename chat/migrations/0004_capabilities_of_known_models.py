from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

ALL = {"sees_images": True, "reads_pdfs": True, "efforts": "low medium high"}
KNOWN: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "openai": (("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol"), ALL),
    "anthropic": (("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"), ALL),
    "gemini": (("gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-4-argon"), ALL),
    "deepseek": (("deepseek-flash",), {"sees_images": True, "efforts": "none high"}),
}
UNTOUCHED = {"sees_images": False, "reads_pdfs": False, "efforts": ""}


def tell(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Tell rows that are older than these fields what their models can do. The catalogue adds only what is missing."""
    rows = apps.get_model("chat", "LanguageModel").objects.using(schema_editor.connection.alias)
    for provider, (names, can) in KNOWN.items():
        rows.filter(provider=provider, provider_model__in=names, **UNTOUCHED).update(**can)


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0003_capabilities_and_markup"),
    ]

    operations = [
        migrations.RunPython(tell, migrations.RunPython.noop),
    ]
