from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("history", "0012_retention"),
    ]

    operations = [
        migrations.AddField(
            model_name="turn",
            name="embedding",
            field=models.BinaryField(null=True),
        ),
        migrations.AddField(
            model_name="turn",
            name="embedded_by",
            field=models.SmallIntegerField(editable=False, null=True),
        ),
        migrations.AddIndex(
            model_name="turn",
            index=models.Index(fields=["embedded_by", "created_at"], name="turn_embedded"),
        ),
    ]
