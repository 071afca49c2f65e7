from django.db import migrations, models

from core.indexing import AddIndexBeside


class Migration(migrations.Migration):
    atomic = False  # PostgreSQL builds an index beside those who write in no transaction

    dependencies = [
        ("history", "0015_dialogues"),
    ]

    operations = [
        AddIndexBeside(
            model_name="turn",
            index=models.Index(
                condition=models.Q(("is_completion", True)),
                fields=["owner_id", "dialogue", "-created_at"],
                name="turn_of_dialogue",
            ),
        ),
    ]
