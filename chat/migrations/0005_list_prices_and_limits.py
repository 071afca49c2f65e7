"""Prices that were ours become list prices, and windows as wide as they are; what an operator changed stays."""

import django.core.validators
from django.db import migrations, models

AS_OF = "2026-11-24"
NAMES = ("input", "output", "cache_read", "cache_write")
OLD = {
    "gpt-6-luna": (100_000, 500_000, 10_000, 125_000),
    "gpt-6.1-terra": (1_000_000, 5_000_000, 50_000, 1_250_000),
    "gpt-6.1-sol": (2_000_000, 10_000_000, 100_000, 2_500_000),
    "claude-haiku-5-5": (100_000, 500_000, 10_000, 125_000),
    "claude-sonnet-5-5": (2_000_000, 10_000_000, 100_000, 2_500_000),
    "claude-opus-5-5": (4_000_000, 20_000_000, 200_000, 5_000_000),
    "gemini-3.5-flash-lite": (300_000, 2_500_000, 30_000, None),
    "gemini-3.8-flash": (750_000, 3_750_000, 75_000, None),
    "gemini-4-argon": (2_000_000, 10_000_000, 100_000, None),
    "deepseek-flash": (300_000, 1_200_000, 6_000, None),
}
"""What the catalogue was seeded with: the four prices of NAMES."""
OPENAI = (272_000, (200, 150, 200, 200))
DEARER = {
    "gpt-6-luna": OPENAI,
    "gpt-6.1-terra": OPENAI,
    "gpt-6.1-sol": OPENAI,
    "claude-haiku-5-5": (100_000, (500, 500, 500, 500)),
}
"""Above how many tokens of input their price is another, and which, in percent of the four."""
WINDOWS = {
    "gpt-6-luna": (200_000, 1_050_000),
    "gpt-6.1-terra": (200_000, 1_050_000),
    "gpt-6.1-sol": (200_000, 1_050_000),
    "claude-haiku-5-5": (100_000, 1_000_000),
}
"""Held down while prices had no tiers, and real."""


def follow_list_prices(apps, _schema_editor):
    """The list price is written too, so that nothing is unoffered until the catalogue is loaded."""
    language_model = apps.get_model("chat", "LanguageModel")
    for key, prices in OLD.items():
        old = {f"{name}_price": price for name, price in zip(NAMES, prices, strict=True)}
        row = language_model.objects.filter(key=key, **old).first()
        if row is None:
            continue
        for name in old:
            setattr(row, name, None)
        row.list_price = {**list_price(key), "as_of": AS_OF}
        before, after = WINDOWS.get(key, (None, None))
        if row.context_window == before:
            row.context_window = after
        row.save()


def list_price(key):
    above, percents = DEARER.get(key, (0, (100,) * 4))
    return {
        name: [[0, price], [above, price * percent // 100]] if above else [[0, price]]
        for name, price, percent in zip(NAMES, OLD[key], percents, strict=True)
        if price is not None
    }


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0004_capabilities_of_known_models"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProviderLimit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("provider", models.CharField(max_length=50, unique=True, verbose_name="provider")),
                ("daily_micros", models.PositiveBigIntegerField(verbose_name="a day")),
            ],
            options={
                "verbose_name": "daily limit of a provider",
                "verbose_name_plural": "daily limits of providers",
                "ordering": ("provider",),
            },
        ),
        migrations.AlterField(
            model_name="languagemodel",
            name="markup_percent",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="Added to what the provider takes, before the sum is rounded up to a millionth of a dollar.",
                validators=[django.core.validators.MaxValueValidator(1000)],
                verbose_name="markup, %",
            ),
        ),
        migrations.RunPython(follow_list_prices, migrations.RunPython.noop),
    ]
