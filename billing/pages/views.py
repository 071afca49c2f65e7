"""The pages of money: prices, the checkout and what came of it, one's own plan and payments, and what was used.

A page changes nothing by itself: it calls one function of `purchasing`, and shows what the rows say afterwards.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import pgettext
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import limits
from accounts.adapter import forget_wanted, remember_wanted
from accounts.http import member_of, peer_of
from accounts.keys import key_names
from accounts.limits import Act
from accounts.models import User
from billing import purchasing
from billing.entitlements import account_of, allowance_of, period_of
from billing.errors import NotForSale
from billing.gateways import mode_of_payments
from billing.gateways.base import ChangePreview
from billing.models import AllowanceNotice, BillingAccount, Payment, Price, Purchase
from billing.pages import buying, overview, usage_chart
from billing.pages.forms import CheckoutForm, MonthForm, RefundForm
from billing.pages.words import list_allowed, saved_percent, show_price, title_of
from billing.standing import may_begin_when_it_ends, standing_of
from billing.usage import UsageLine, find_end_of_credits, group, list_usage, sum_up
from core.errors import DomainError, NotFound
from core.http import is_fragment
from core.money import format_money

PREVIEW_SALT = "billing.change"
PREVIEW_SECONDS = 900
"""For how long a price that was shown for a change holds."""
READ_AND_ACT = ["GET", "HEAD", "POST"]


def _explain_on_plan(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Show why something cannot be done to a subscription on the page of the plan, where everything is that can be."""

    @wraps(view)
    def explained(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound:
            raise
        except DomainError as error:
            messages.warning(request, str(error.message))
            return redirect("billing")

    return explained


@require_safe
def pricing(request: HttpRequest) -> HttpResponse:
    """The plans and what they cost, for everybody."""
    prices = purchasing.list_for_sale()
    account = account_of(member_of(request).pk) if request.user.is_authenticated else None
    currency = buying.choose_currency(prices, request.GET.get("currency", ""), account)
    intervals = sorted({one.interval for one in prices if one.currency == currency and one.interval})
    asked = request.GET.get("every", "month")
    interval = asked if asked in intervals or not intervals else intervals[0]
    context = {
        "offers": buying.list_offers(prices, currency, interval),
        "packs": buying.list_packs(prices, currency),
        "currencies": sorted({price.currency for price in prices}),
        "currency": currency,
        "costs_nothing": format_money(0, currency) if currency else pgettext("price", "Free"),
        "intervals": intervals,
        "interval": interval,
        "saved_percent": saved_percent(price for price in prices if price.currency == currency),
        "standing": standing_of(account) if account else None,
        "offers_trials": account is None or not purchasing.has_tried(account),
        "mode": mode_of_payments(),
    }
    return render(request, "billing/pricing.html", context)


@require_http_methods(READ_AND_ACT)
def checkout(request: HttpRequest, price_id: int) -> HttpResponse:
    """How to pay for something; POST begins that at the gateway. Visitors sign up first, and come back."""
    if not isinstance(request.user, User):
        wanted = request.get_full_path()
        response = HttpResponseRedirect(f"{reverse('account_signup')}?{urlencode({'next': wanted})}")
        return remember_wanted(response, wanted)
    price = Price.objects.select_related("plan").filter(pk=price_id).first()
    ways = buying.list_ways(price) if price else []
    if price is None or not ways:
        raise NotForSale
    replaces = request.GET.get("replaces") == "1"
    form = _checkout_form(request, ways)
    refusal: DomainError | None = None
    if request.method == "POST" and form.is_valid():
        try:
            return _begin(request, form, ways, replaces=replaces)
        except DomainError as error:
            refusal = error
    status = refusal.status if refusal else 422 if form.is_bound and not form.is_valid() else 200
    context = _checkout_context(request.user, price, ways, form, replaces=replaces)
    return forget_wanted(
        render(request, "billing/checkout.html", context | {"form": form, "refusal": refusal}, status=status)
    )


@login_required
@require_safe
def pay(request: HttpRequest, key: str) -> HttpResponse:
    """A page that leads on to the gateway's. A form could not: browsers hold every redirect that follows one to the
    site's policy, also those of the gateway, which nobody can foretell."""
    purchase = _find_purchase(request, key)
    if not purchase.url or purchase.closed_at is not None:
        return redirect("billing_return", key)
    return _lead_on(request, purchase.url, purchase.price.gateway)


@login_required
@require_safe
def come_back(request: HttpRequest, key: str) -> HttpResponse:
    """What came of a checkout: the gateway is asked, and what it says applied. The page looks again by itself, and
    grants nothing: what is shown is what the rows say."""
    member = member_of(request)
    purchase = purchasing.return_from_checkout(member, key)
    tries = _number(request.GET.get("tries", ""))
    outcome = buying.outcome_of(purchase)
    is_open = outcome.state in ("waiting", "confirm")
    context = {
        "purchase": purchase,
        "price": show_price(purchase.price),
        "outcome": outcome,
        "gateway": title_of(purchase.price.gateway),
        "takes_an_hour": buying.takes_an_hour(purchase),
        "poll_after": buying.poll_after(tries) if is_open else None,
        "tries": tries + 1,
        "allowance": allowance_of(member.pk) if outcome.state == "done" else None,
        "mode": mode_of_payments(),
    }
    return render(request, "billing/_outcome.html" if is_fragment(request) else "billing/return.html", context)


@login_required
@require_safe
def billing(request: HttpRequest) -> HttpResponse:
    """One's plan, what is to be paid, what is left, and everything that can be done about it."""
    member = member_of(request)
    period = period_of(member.pk)
    account = period.account
    standing = standing_of(account)
    payments, older = overview.list_payments(account)
    context = {
        "standing": standing,
        "gateway": title_of(standing.subscription.gateway) if standing.subscription else "",
        "next_amount": show_price(standing.next_price).amount if standing.next_price else "",
        "allowed": list_allowed(standing.plan),
        "allowance": allowance_of(member.pk),
        "used_up_at": find_end_of_credits(period),
        "notices": overview.list_notices(period),
        "to_pay": overview.list_to_pay(account),
        "choices": overview.list_choices(account, standing),
        "has_packs_for_sale": any(price.plan_id is None for price in purchasing.list_for_sale()),
        "payments": payments,
        "older": older,
        "mode": mode_of_payments(),
    }
    return render(request, "billing/billing.html", context)


@login_required
@require_safe
def payments(request: HttpRequest) -> HttpResponse:
    """All payments, a page at a time."""
    before = _number(request.GET.get("before", "")) or None
    shown, older = overview.list_payments(account_of(member_of(request).pk), before=before)
    return render(request, "billing/payments.html", {"payments": shown, "older": older})


@login_required
@require_http_methods(READ_AND_ACT)
@_explain_on_plan
def change(request: HttpRequest, price_id: int) -> HttpResponse:
    """What another price would mean, and when; POST changes to it, for what was shown."""
    member = member_of(request)
    account = account_of(member.pk)
    bought = account.subscriptions.filter(price=price_id)
    if any(one.is_live(timezone.now()) for one in bought):
        return redirect("billing")  # the same form again, or the way back to it
    if request.method == "POST":
        return _change(request, member, price_id)
    planned, live = purchasing.preview_change(member, price_id), purchasing.find_live(account)
    context = {
        "price": show_price(planned.price),
        "planned": planned,
        "allowed": list_allowed(planned.price.plan) if planned.price.plan else [],
        "begins_anew": live is not None and live.price.interval != planned.price.interval,
        "due_now": format_money(planned.preview.amount_minor, planned.preview.currency) if planned.preview else "",
        "signed": _sign(member, planned),
        "mode": mode_of_payments(),
    }
    return render(request, "billing/change.html", context)


@login_required
@require_http_methods(READ_AND_ACT)
@_explain_on_plan
def cancel(request: HttpRequest) -> HttpResponse:
    """Ask whether the subscription is to end; POST ends it, at the end of what is paid."""
    member = member_of(request)
    standing = standing_of(account_of(member.pk))
    if not standing.may_cancel:
        return redirect("billing")  # the same form again
    if request.method == "POST":
        if purchasing.cancel(member):
            messages.success(request, _("Cancelled. You are charged nothing more."))
        else:
            messages.warning(
                request, _("Cancelled. The payment service has not confirmed it yet: it is told as soon as it answers.")
            )
        return redirect("billing")
    return render(request, "billing/cancel.html", {"standing": standing})


@login_required
@require_POST
@_explain_on_plan
def resume(request: HttpRequest) -> HttpResponse:
    if purchasing.resume(member_of(request)):
        messages.success(request, _("Your subscription goes on."))
    else:
        messages.warning(request, _("The payment service does not answer: it is told as soon as it does."))
    return redirect("billing")


@login_required
@require_POST
@_explain_on_plan
def payment_method(request: HttpRequest) -> HttpResponse:
    """Lead to the page of the gateway where the payer changes how they pay."""
    member = member_of(request)
    live = purchasing.find_live(account_of(member.pk))
    url = purchasing.payment_method_url(member, settings.SITE_URL + reverse("billing"))
    return _lead_on(request, url, live.gateway if live else "")


@login_required
@require_http_methods(READ_AND_ACT)
@_explain_on_plan
def refund(request: HttpRequest, payment_id: int) -> HttpResponse:
    """Ask the operator for one's money back, with a reason."""
    member = member_of(request)
    payment = Payment.objects.filter(subscription__account__user=member, pk=payment_id).select_related(
        "price__plan", "subscription"
    )
    found = payment.first()
    if found is None:
        raise NotFound
    form = RefundForm(request.POST or None)
    if form.is_valid():
        purchasing.request_refund(member, payment_id, form.cleaned_data["reason"])
        messages.success(request, _("We have your request, and will answer by mail."))
        return redirect("billing")
    context = {"form": form, "shown": overview.show_payment(found)}
    return render(request, "billing/refund.html", context, status=422 if form.is_bound else 200)


@login_required
@require_POST
def seen(request: HttpRequest) -> HttpResponse:
    """The notices of how much is used were seen."""
    notices = AllowanceNotice.objects.filter(period__account__user=member_of(request), seen_at=None)
    notices.update(seen_at=timezone.now())
    return redirect("billing")


@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """What was used in a month, by day, by model and, where there is one, by API key."""
    first, last, form = _month_of(request)
    account = account_of(member_of(request).pk)
    lines = list_usage(account, first, last, "day", "model")
    by_day = group(lines, "day")
    context = {
        "form": form,
        "month": first,
        "chart": usage_chart.draw(by_day, first, last),
        "by_day": by_day,
        "by_model": group(lines, "model"),
        "by_key": _list_by_key(account, first, last) if account.part_months.exists() else [],
        "total": sum_up(lines),
    }
    return render(request, "billing/usage.html", context)


@login_required
@require_safe
def usage_csv(request: HttpRequest) -> HttpResponse:
    first, last, _form = _month_of(request)
    lines = list_usage(account_of(member_of(request).pk), first, last, "day", "model")
    headers = {"Content-Disposition": f'attachment; filename="usage-{first:%Y-%m}.csv"'}
    return HttpResponse(usage_chart.write_csv(lines), content_type="text/csv; charset=utf-8", headers=headers)


def _list_by_key(account: BillingAccount, first: dt.date, last: dt.date) -> list[UsageLine]:
    """Return a line for each API key, under its name, that used something in these days; none where none did."""
    lines, names = list_usage(account, first, last, "part"), key_names(account.user_id or 0)
    if not any(line.part for line in lines):
        return []
    return [replace(line, model=names.get(line.part) or _("Without a key")) for line in lines]


def _checkout_form(request: HttpRequest, ways: list[buying.Way]) -> CheckoutForm:
    asking = [way for way in ways if way.wants_payer_email]
    return CheckoutForm(
        request.POST or None,
        ways=[way.key for way in ways],
        ways_with_email=[way.key for way in asking],
        asked_by=title_of(asking[0].price.price.gateway) if asking else "",
        initial={"way": ways[0].key, "payer_email": member_of(request).email, "nonce": buying.new_nonce()},
    )


def _checkout_context(
    user: User, price: Price, ways: list[buying.Way], form: CheckoutForm, *, replaces: bool
) -> dict[str, object]:
    account = account_of(user.pk)
    is_plan = price.plan is not None
    live = purchasing.find_live(account) if is_plan else None
    standing = standing_of(account)
    trial_days = price.plan.trial_days if price.plan and live is None and not purchasing.has_tried(account) else 0
    return {
        "price": show_price(price),
        "allowed": list_allowed(price.plan) if price.plan else [],
        "ways": ways,
        "chosen": form["way"].value(),
        "takes_coupons": buying.takes_coupons(ways),
        "live": live,
        "standing": standing,
        "change": overview.find_change(account, standing, price) if is_plan else None,
        "waiting": purchasing.find_waiting(account) if is_plan else None,
        "replaces": replaces and live is not None,
        "may_replace": is_plan and may_begin_when_it_ends(account),
        "trial_days": trial_days,
        "may_try": trial_days > 0 and purchasing.may_try(account, user),
        "mode": mode_of_payments(),
    }


def _begin(request: HttpRequest, form: CheckoutForm, ways: list[buying.Way], *, replaces: bool) -> HttpResponseRedirect:
    user = member_of(request)
    way = next(way for way in ways if way.key == form.cleaned_data["way"])
    payer_email = form.cleaned_data["payer_email"]
    coupon, nonce = form.cleaned_data["coupon"], form.cleaned_data["nonce"]
    if coupon:  # before it is looked for: else codes could be guessed
        limits.count(Act.DISCOUNT, peer=peer_of(request), account=user.email)
    key = buying.purchase_key(user.pk, nonce, way, payer_email, coupon, replaces=replaces)
    purchase = purchasing.start_checkout(
        user,
        way.price.price.pk,
        way.kind,
        return_url=buying.return_url(key),
        key=key,
        payer_email=payer_email,
        coupon_code=coupon,
        replaces=replaces,
    )
    return HttpResponseRedirect(reverse("billing_pay", args=[purchase.key]))


def _change(request: HttpRequest, member: User, price_id: int) -> HttpResponse:
    preview = _unsign(member, price_id, request.POST.get("signed", ""))
    if isinstance(preview, signing.BadSignature):
        messages.warning(request, _("That price may have changed. Please look at it again."))
        return redirect("billing_change", price_id)
    begun = timezone.now()
    subscription = purchasing.change(member, price_id, preview)
    if preview is not None and subscription.observed_at < begun:
        messages.warning(request, _("The payment service is slow. You will see the result here in a minute."))
    elif preview is not None and subscription.price_id != price_id:
        messages.warning(request, _("The change waits for its payment: see below what to do."))
    elif preview is not None:
        messages.success(request, _("Changed. It counts from now on."))
    else:
        when = (
            date_format(timezone.localtime(subscription.held_until), "DATE_FORMAT") if subscription.held_until else ""
        )
        messages.success(request, _("Planned. It changes on %(when)s.") % {"when": when})
    return redirect("billing")


def _sign(member: User, planned: purchasing.Change) -> str:
    """Return the preview as a form can carry it: nobody else made it, for nobody else and nothing else, and from
    nothing else."""
    preview = planned.preview
    fields = {
        "user": member.pk,
        "price": planned.price.pk,
        "from": _changes_from(member),
        "preview": preview
        and [
            preview.amount_minor,
            preview.currency,
            preview.proration_date.isoformat(),
            preview.next_amount_minor,
            preview.next_payment_at.isoformat(),
        ],
    }
    return signing.dumps(fields, salt=PREVIEW_SALT)


def _unsign(member: User, price_id: int, signed: str) -> ChangePreview | None | signing.BadSignature:
    try:
        fields = signing.loads(signed, salt=PREVIEW_SALT, max_age=PREVIEW_SECONDS)
    except signing.BadSignature as error:
        return error
    if (fields["user"], fields["price"], fields.get("from")) != (member.pk, price_id, _changes_from(member)):
        return signing.BadSignature("of another form")
    if fields["preview"] is None:
        return None
    amount_minor, currency, proration_date, next_amount_minor, next_payment_at = fields["preview"]
    return ChangePreview(
        amount_minor,
        currency,
        dt.datetime.fromisoformat(proration_date),
        next_amount_minor,
        dt.datetime.fromisoformat(next_payment_at),
    )


def _changes_from(member: User) -> str:
    """Return what a change would change: after another change, or a renewal, the same one costs something else."""
    live = purchasing.find_live(account_of(member.pk))
    return f"{live.pk}:{live.price_id}:{live.held_until}" if live else ""


def _find_purchase(request: HttpRequest, key: str) -> Purchase:
    purchase = Purchase.objects.filter(account__user=member_of(request), key=key).select_related("price").first()
    if purchase is None:
        raise NotFound
    return purchase


def _lead_on(request: HttpRequest, url: str, gateway: str) -> HttpResponse:
    context = {"url": url, "gateway": title_of(gateway), "mode": mode_of_payments()}
    response = render(request, "billing/lead_on.html", context)
    response["Refresh"] = f"0; url={url}"
    return response


def _month_of(request: HttpRequest) -> tuple[dt.date, dt.date, MonthForm]:
    """Return the first and the last day of the month that was asked for, else of this one."""
    today = timezone.localdate()
    since = timezone.localtime(account_of(member_of(request).pk).created_at).date()
    months = usage_chart.list_months(since, today)
    form = MonthForm({"month": request.GET.get("month", f"{today:%Y-%m}")}, months=months)
    first = form.chosen() or today.replace(day=1)
    return first, (first + dt.timedelta(days=32)).replace(day=1) - dt.timedelta(days=1), form


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
