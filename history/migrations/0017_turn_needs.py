from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("history", "0016_dialogue_index"),
    ]

    operations = [
        migrations.AddField(
            model_name="turn",
            name="needs",
            field=models.SmallIntegerField(editable=False, null=True),
        ),
    ]
