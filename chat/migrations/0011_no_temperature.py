from django.db import migrations, models


class Migration(migrations.Migration):
    """Nothing follows from `accepts_temperature`. Its column stays, and may be null, for processes of the release
    before, which read and write it; a later release drops it."""

    dependencies = [
        ("chat", "0010_batches"),
    ]

    operations = [
        migrations.AlterField(
            model_name="languagemodel",
            name="accepts_temperature",
            field=models.BooleanField(default=False, null=True),
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField(model_name="languagemodel", name="accepts_temperature"),
            ],
        ),
    ]
