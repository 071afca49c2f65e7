"""The admin's pages of who has what and what they paid, and what an operator does about it."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.validators import URLValidator
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html_join
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from billing import staff
from billing.admin import dashboard
from billing.admin.acts import ActForm, ActsAdmin, OperatorAct
from billing.admin.tables import AccountRowsAdmin, CurrencyFilter, GatewayFilter, show_credits
from billing.entitlements import access_of
from billing.models import (
    BillingAccount,
    GatewayTask,
    Payment,
    Plan,
    StaffAct,
    Subscription,
    UsagePeriod,
    UsageRecord,
)
from core.money import exponent_of, format_money, to_decimal, to_minor

# --- Accounts ---------------------------------------------------------------------------------------------------------


class NamedSplitDateTime(AdminSplitDateTime):
    """A day and a time, each with its name: the field's label is for neither."""

    def __init__(self) -> None:
        super().__init__()
        for widget, name in zip(self.widgets, (_("Date"), _("Time")), strict=True):
            widget.attrs["aria-label"] = name


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new account, for whoever has the address."""

    user = forms.ModelChoiceField(
        label=_("Person"),
        queryset=User.objects.filter(billing_account=None),
        to_field_name="email",
        widget=forms.EmailInput(attrs={"size": 40}),
        help_text=_("The address of somebody who has no account yet."),
        error_messages={"invalid_choice": _("Nobody without an account has this address.")},
    )

    class Meta:
        model = BillingAccount
        fields = ("user",)


class GrantForm(ActForm):
    plan = forms.ModelChoiceField(label=_("Plan"), queryset=Plan.objects.all())
    until = forms.SplitDateTimeField(
        label=_("Until"), required=False, widget=NamedSplitDateTime, help_text=_("Empty: without end.")
    )
    field_order = ("plan", "until", "reason", "key")

    def clean_until(self) -> Any:
        until = self.cleaned_data["until"]
        if until is not None and until <= timezone.now():
            raise forms.ValidationError(_("That is over already."))
        return until


@admin.register(BillingAccount)
class BillingAccountAdmin(ActsAdmin, AccountRowsAdmin):
    owner_path = ""
    list_display = ("owner", "plan", "grant_until", "subscribed_until", "created_at")
    list_select_related = ("user", "plan")
    acts = (
        OperatorAct(
            "grant",
            _("Grant a plan"),
            lambda account, by, sent: staff.grant_plan(account, sent.pop("plan"), by=by, **sent),
            form=GrantForm,
            warning=_(
                "It takes the place of what was granted before. Of a grant and a subscription, the higher holds."
            ),
        ),
        OperatorAct(
            "revoke",
            _("Take the grant back"),
            lambda account, by, sent: staff.grant_plan(account, None, by=by, **sent),
            is_offered=lambda account: account.plan_id is not None,
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Who never asked anything has no account yet."""
        return self.may_act(request)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **({} if change else {"form": AccountForm}), **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        if obj is None:
            return ("user",)
        return (
            *("owner", "plan_now", "paid_until", "period_now", "overdraft", "holds"),
            *("plan", "grant_until", "grant_reason", "granted_by", "trial_at", "see_also"),
        )

    @admin.display(description=_("user"))
    def owner(self, account: BillingAccount) -> str:
        return super().owner(account)

    @admin.display(description=_("plan now"))
    def plan_now(self, account: BillingAccount) -> str:
        access = access_of(account)
        if access.subscription is None:
            why = gettext("granted") if access.plan.pk == account.plan_id else gettext("the default")
        else:
            why = gettext("in grace") if access.is_grace else gettext("paid")
        return f"{access.plan} ({why})"

    @admin.display(description=_("paid until"))
    def paid_until(self, account: BillingAccount) -> str:
        ends = account.subscriptions.filter(is_double=False).exclude(kind=Subscription.Kind.PACK)
        latest = ends.exclude(paid_until=None).order_by("-paid_until").values_list("paid_until", flat=True).first()
        return _moment(latest) if latest else "–"

    @admin.display(description=_("credits now"))
    def period_now(self, account: BillingAccount) -> str:
        """The rows that can pay now; on this page none is made."""
        lines = [
            gettext("%(kind)s from %(start)s to %(end)s: %(used)s used and %(reserved)s reserved of %(allowance)s")
            % {
                "kind": period.get_kind_display(),
                "start": _moment(period.period_start),
                "end": _moment(period.period_end),
                "used": show_credits(period.used_micros),
                "reserved": show_credits(period.reserved_micros),
                "allowance": show_credits(period.allowance_micros),
            }
            for period in self._running(account)
        ]
        return "\n".join(lines) or "–"

    @admin.display(description=_("overdraft, credits"))
    def overdraft(self, account: BillingAccount) -> str:
        over = [-(period.left_micros or 0) for period in self._running(account) if (period.left_micros or 0) < 0]
        return show_credits(sum(over))

    @admin.display(description=_("see also"))
    def see_also(self, account: BillingAccount) -> str:
        """Lead to the tables where this account's number is looked for."""
        models = (Subscription, Payment, UsagePeriod, UsageRecord, GatewayTask, StaffAct)
        links = (
            (f"../../../{model._meta.model_name}/?q={account.pk}", capfirst(model._meta.verbose_name_plural))
            for model in models
        )
        return format_html_join(" · ", '<a href="{}">{}</a>', links)

    def _running(self, account: BillingAccount) -> Any:
        now = timezone.now()
        return account.periods.filter(period_start__lte=now, period_end__gt=now).order_by("kind", "period_end")


# --- Subscriptions ----------------------------------------------------------------------------------------------------


@admin.register(Subscription)
class SubscriptionAdmin(ActsAdmin, AccountRowsAdmin):
    exact_fields = ("reference",)
    list_display = ("owner", "gateway", "kind", "status", "price", "paid_until", "access_until", "cancels_at")
    list_filter = ("status", "kind", GatewayFilter, "is_frozen", "is_double")
    list_select_related = ("account__user", "price")
    fields = (
        *("owner", "account", "gateway", "reference", "kind", "status", "price", "next_price", "plan", "anchor"),
        *("access_from", "paid_until", "access_until", "cancels_at", "trial_end", "ended_at"),
        *("is_frozen", "is_double", "observed_at", "payments"),
    )
    acts = (
        OperatorAct(
            "resync",
            _("Ask the gateway now"),
            lambda subscription, by, sent: staff.resync(subscription, by=by, **sent),
            warning=_("Its answer replaces what is here."),
        ),
        OperatorAct(
            "cancel",
            _("Cancel at the end of what is paid"),
            lambda subscription, by, sent: staff.cancel_for(subscription, by=by, **sent),
            is_offered=lambda subscription: subscription.renews,
        ),
        OperatorAct(
            "cancel-now",
            _("Cancel at once"),
            lambda subscription, by, sent: staff.cancel_for(subscription, by=by, at_once=True, **sent),
            is_offered=lambda subscription: (
                subscription.kind == Subscription.Kind.SUBSCRIPTION and subscription.status != Subscription.Status.ENDED
            ),
            warning=_("Nothing more is charged. What was paid holds until its end, unless it is refunded."),
        ),
    )

    @admin.display(description=_("payments"))
    def payments(self, subscription: Subscription) -> str:
        latest = subscription.payments.order_by("-pk")[:20]
        return "\n".join(
            f"{_moment(one.paid_at or one.created_at)}  {_amount(one)}  {one.get_status_display()}  {one.reference}"
            for one in latest
        )


# --- Payments ---------------------------------------------------------------------------------------------------------


class PaymentForm(ActForm):
    """What is about giving a payment back: what is left of it, and what its payer had for it."""

    def __init__(self, *args: Any, row: Payment, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.left_minor = staff.refundable_minor(row)

    @property
    def facts(self) -> list[tuple[str, str]]:
        payment = self.row
        facts = [
            (gettext("Paid"), _amount(payment)),
            (gettext("Not refunded yet"), format_money(self.left_minor, payment.currency)),
            (gettext("Credits used since"), show_credits(staff.micros_used_with(payment))),
        ]
        if payment.refund_requested_at:
            facts.append((gettext("Asked for"), f"{_moment(payment.refund_requested_at)}: {payment.refund_reason}"))
        return facts


class GiveBackForm(PaymentForm):
    amount = forms.DecimalField(label=_("Amount"), min_value=0)
    field_order = ("amount", "reason", "key")

    def __init__(self, *args: Any, row: Payment, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        amount = self.fields["amount"]
        amount.initial = to_decimal(self.left_minor, row.currency)
        amount.widget.attrs["step"] = str(to_decimal(1, row.currency))
        amount.help_text = gettext("In %(currency)s, up to what is left.") % {"currency": row.currency}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        amount = cleaned.pop("amount", None)
        if amount is None:
            return cleaned
        try:
            cleaned["amount_minor"] = to_minor(amount, self.row.currency)
        except ValueError:
            digits = exponent_of(self.row.currency)
            self.add_error("amount", _("That currency has %(digits)s digits after the point.") % {"digits": digits})
        else:
            if not 0 < cleaned["amount_minor"] <= self.left_minor:
                self.add_error("amount", _("More than zero, and no more than what is left."))
        return cleaned


class RefusalForm(PaymentForm):
    def __init__(self, *args: Any, row: Payment, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["reason"].help_text = gettext("The payer is mailed this, and it is kept for good.")


class DocumentForm(ActForm):
    reason = None  # type: ignore[assignment]
    number = forms.CharField(
        label=_("Number"), max_length=Payment._meta.get_field("fiscal_number").max_length, required=False
    )
    url = forms.URLField(
        label=_("Address"),
        max_length=Payment._meta.get_field("fiscal_url").max_length,
        required=False,
        assume_scheme="https",
        validators=[URLValidator(schemes=["https"])],
        help_text=_("Where its payer can read it. Empty both to take it away."),
    )
    field_order = ("number", "url", "key")

    def __init__(self, *args: Any, row: Payment, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["number"].initial, self.fields["url"].initial = row.fiscal_number, row.fiscal_url


class OpenFilter(admin.SimpleListFilter):
    title = _("to be done")
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("refund", _("refund asked for")), ("dispute", _("disputed")), ("document", _("no fiscal document"))]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        wanted = {
            "refund": Q(refund_requested_at__isnull=False, refund_answered_at=None),
            "dispute": Q(dispute=Payment.Dispute.OPEN),
            "document": Q(status=Payment.Status.PAID, fiscal_number="", amount_minor__gt=F("refunded_minor")),
        }
        return queryset.filter(wanted.get(self.value() or "", Q()))


@admin.register(Payment)
class PaymentAdmin(ActsAdmin, AccountRowsAdmin):
    owner_path = "subscription__account"
    exact_fields = ("reference", "fiscal_number")
    change_list_template = "admin/billing/payment/change_list.html"
    list_display = (
        *("paid_at", "owner", "gateway", "amount", "status", "refunded", "dispute"),
        *("refund_requested_at", "fiscal_number"),
    )
    list_filter = (OpenFilter, "status", "dispute", GatewayFilter, CurrencyFilter)
    list_select_related = ("subscription__account__user",)
    fields = (
        *("owner", "subscription", "gateway", "reference", "price", "amount", "status", "paid_at"),
        *("period_start", "period_end", "is_proration", "refunded", "dispute"),
        *("refund_requested_at", "refund_reason", "refund_answered_at", "refund_answer"),
        *("tax", "tax_country", "tax_id", "fiscal_number", "fiscal_url", "credits_used"),
    )
    acts = (
        OperatorAct(
            "refund",
            _("Refund"),
            lambda payment, by, sent: staff.refund(payment, by=by, **sent),
            is_offered=lambda payment: staff.refundable_minor(payment) > 0,
            form=GiveBackForm,
            warning=_("All of it ends the paid time at once; a part changes nothing but the money."),
        ),
        OperatorAct(
            "refuse-refund",
            _("Refuse the refund"),
            lambda payment, by, sent: staff.refuse_refund(payment, by=by, **sent),
            is_offered=lambda payment: payment.waits_for_answer,
            form=RefusalForm,
        ),
        OperatorAct(
            "document",
            _("Attach the fiscal document"),
            lambda payment, by, sent: staff.attach_document(payment, by=by, **sent),
            is_offered=lambda payment: payment.status == Payment.Status.PAID,
            form=DocumentForm,
        ),
    )

    def get_urls(self) -> list[Any]:
        return [*dashboard.urls(self.admin_site), *super().get_urls()]

    @admin.display(description=_("amount"), ordering="amount_minor")
    def amount(self, payment: Payment) -> str:
        return _amount(payment)

    @admin.display(description=_("refunded"))
    def refunded(self, payment: Payment) -> str:
        return format_money(payment.refunded_minor, payment.currency) if payment.refunded_minor else "–"

    @admin.display(description=_("tax"))
    def tax(self, payment: Payment) -> str:
        return format_money(payment.tax_minor, payment.currency)

    @admin.display(description=_("credits used since"))
    def credits_used(self, payment: Payment) -> str:
        return show_credits(staff.micros_used_with(payment))


def _amount(payment: Payment) -> str:
    return format_money(payment.amount_minor, payment.currency)


def _moment(moment: Any) -> str:
    return date_format(timezone.localtime(moment), "SHORT_DATETIME_FORMAT")
