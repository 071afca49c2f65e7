"""Who may do everything here."""

from collections.abc import Iterator

from accounts.models import User
from accounts.second_factor import has_second_factor
from config.doctor.findings import Finding, either, fail, ok, warn


def examine_operators() -> Iterator[Finding]:
    operators = list(User.objects.filter(is_staff=True, is_active=True))
    yield either(
        any(operator.is_superuser for operator in operators),
        ok("operators", f"{len(operators)}"),
        warn("operators", "There is no superuser.", "Run “manage.py createsuperuser”."),
    )
    without = [operator for operator in operators if not has_second_factor(operator.pk)]
    yield either(
        not without,
        ok("operators, second factor", "everyone has one"),
        fail(
            "operators, second factor",
            f"{len(without)} have none: whoever has the password sets one up, and is in /admin/. Ids: "
            f"{', '.join(str(operator.pk) for operator in without[:10])}.",
            "Let each set one up in their settings, under “Two-factor authentication”.",
        ),
    )
