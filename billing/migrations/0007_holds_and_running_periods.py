from typing import Any

from django.db import migrations
from django.db.models import Count, F, Q
from django.utils import timezone


def count_holds(apps: Any, _schema_editor: Any) -> None:
    """Count what is held, by account: few rows, which an index finds."""
    held = apps.get_model("billing", "Reservation").objects.filter(state="held")
    accounts = apps.get_model("billing", "BillingAccount").objects
    for account_id, holds in held.values_list("period__account").annotate(holds=Count("pk")):
        accounts.filter(pk=account_id).update(holds=holds)


def describe_running_periods(apps: Any, _schema_editor: Any) -> None:
    """The running months are their plan's, so that an edited plan counts for them. Those of people who were granted a
    plan are of the kind that grants have now: they go on with what they have used. Others stay as they are."""
    plans = apps.get_model("billing", "Plan").objects
    running = apps.get_model("billing", "UsagePeriod").objects.filter(period_end__gt=timezone.now())
    fields = {"full_end": F("period_end"), "granted_until": F("period_end"), "plan_micros": F("allowance_micros")}
    default = plans.filter(is_default=True).first() or plans.order_by("rank").first()
    for plan in plans.all():
        running.filter(account__plan=plan).update(plan=plan, kind="paid", **fields)
    if default is not None:
        running.filter(Q(account__plan=None)).update(plan=default, **fields)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_subscriptions"),
    ]

    operations = [
        migrations.RunPython(count_holds, migrations.RunPython.noop),
        migrations.RunPython(describe_running_periods, migrations.RunPython.noop),
    ]
