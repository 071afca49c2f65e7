from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("history", "0014_completions"),
    ]

    operations = [
        migrations.AddField(
            model_name="turn",
            name="dialogue",
            field=models.CharField(editable=False, max_length=32, null=True),
        ),
    ]
