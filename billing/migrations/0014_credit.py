from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_retention"),
    ]

    operations = [
        migrations.AddField(
            model_name="payment",
            name="credit_minor",
            field=models.BigIntegerField(default=0, verbose_name="paid with credit"),
        ),
        migrations.AlterField(
            model_name="gatewaytask",
            name="act",
            field=models.CharField(
                choices=[
                    ("cancel_now", "cancel at once"),
                    ("cancel_at_period_end", "cancel at the end of the period"),
                    ("resume", "resume"),
                    ("refund", "refund"),
                    ("return_credit", "return the credit"),
                    ("expire_checkout", "end a checkout"),
                    ("forget_customer", "erase the customer"),
                ],
                max_length=20,
                verbose_name="what",
            ),
        ),
    ]
