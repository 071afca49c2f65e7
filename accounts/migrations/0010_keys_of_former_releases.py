from django.db import migrations, models


class Migration(migrations.Migration):
    """A process of the release before, which is still there after `prepare`, makes keys without origins."""

    dependencies = [
        ("accounts", "0009_devices"),
    ]

    operations = [
        migrations.AlterField(
            model_name="apikey",
            name="origins",
            field=models.TextField(blank=True, default="", null=True),
        ),
    ]
