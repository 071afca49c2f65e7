from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

OURS = {"input_price": 1_000_000, "output_price": 10_000_000}


def set_free(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Make the Demo model free where it has the price that came with it; another one is an operator's."""
    rows = apps.get_model("chat", "LanguageModel").objects.using(schema_editor.connection.alias)
    rows.filter(key="demo", provider="demo", **OURS).update(input_price=0, output_price=0)


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0006_attachments"),
    ]

    operations = [
        migrations.RunPython(set_free, migrations.RunPython.noop),
    ]
