from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0010_leaving"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="keeps_conversations",
            field=models.BooleanField(null=True),
        ),
    ]
