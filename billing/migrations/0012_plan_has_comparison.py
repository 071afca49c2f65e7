from django.db import migrations, models


def give_to_paid_plans(apps, schema_editor):
    """The plans of a new installation have it from now on; what an operator made themselves is theirs to change."""
    apps.get_model("billing", "Plan").objects.filter(key__in=("premium", "enterprise")).update(has_comparison=True)


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_names")]

    operations = [
        migrations.AddField(
            model_name="plan",
            name="has_comparison",
            field=models.BooleanField(
                default=False,
                help_text="Two models may answer the same question, side by side; both are paid.",
                verbose_name="two models side by side",
            ),
        ),
        migrations.RunPython(give_to_paid_plans, migrations.RunPython.noop),
    ]
