"""The shapes of Stripe's objects in version 2026-05-27.dahlia, as the simulated Stripe answers them.

`tests/config/test_simulated_stripe.py` holds every one of them against the annotations of Stripe's own SDK.
"""

from typing import Any

Shape = dict[str, Any]

API_VERSION = "2026-05-27.dahlia"
ACCOUNT_ID = "acct_simulated"
NO_TAX = {"enabled": False, "liability": None, "disabled_reason": None, "provider": None, "status": None}


def shape(kind: str, object_id: str, created: int, **fields: Any) -> Shape:
    return {"id": object_id, "object": kind, "created": created, "livemode": False, "metadata": {}, **fields}


def listed(url: str, rows: list[Any], *, has_more: bool = False) -> Shape:
    return {"object": "list", "url": url, "has_more": has_more, "data": rows}


def account() -> Shape:
    return {
        "id": ACCOUNT_ID,
        "object": "account",
        "business_type": "company",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "simulated@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }


def product(object_id: str, created: int, name: str) -> Shape:
    found = shape("product", object_id, created, active=True, description=None, default_price=None, images=[])
    return {**found, "marketing_features": [], "name": name, "type": "service", "updated": created, "url": None}


def price(object_id: str, created: int, product_id: str, currency: str, unit_amount: int, interval: str) -> Shape:
    recurring = {
        "interval": interval,
        "interval_count": 1,
        "meter": None,
        "usage_type": "licensed",
        "trial_period_days": None,
    }
    return shape(
        "price",
        object_id,
        created,
        active=True,
        billing_scheme="per_unit",
        currency=currency,
        lookup_key=None,
        nickname=None,
        product=product_id,
        recurring=recurring if interval else None,
        tax_behavior="unspecified",
        tiers_mode=None,
        transform_quantity=None,
        type="recurring" if interval else "one_time",
        unit_amount=unit_amount,
        unit_amount_decimal=str(unit_amount),
    )


def customer(object_id: str, created: int) -> Shape:
    settings = {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None}
    return shape(
        "customer",
        object_id,
        created,
        address=None,
        balance=0,
        currency=None,
        default_source=None,
        delinquent=False,
        description=None,
        email=None,
        invoice_prefix=object_id[-8:].upper(),
        invoice_settings=settings,
        name=None,
        phone=None,
        preferred_locales=[],
        shipping=None,
        tax_exempt="none",
        test_clock=None,
    )


def payment_method(object_id: str, created: int, customer_id: str, fingerprint: str) -> Shape:
    card = {"brand": "visa", "exp_month": 12, "exp_year": 2034, "last4": "4242", "fingerprint": fingerprint}
    details = {"address": None, "email": None, "name": None, "phone": None, "tax_id": None}
    return shape(
        "payment_method",
        object_id,
        created,
        billing_details=details,
        card={**card, "country": "US", "funding": "credit"},
        customer=customer_id,
        type="card",
    )


def subscription_item(object_id: str, created: int, subscription_id: str, price_: Shape, start: int, end: int) -> Shape:
    return {
        "id": object_id,
        "object": "subscription_item",
        "created": created,
        "current_period_start": start,
        "current_period_end": end,
        "discounts": [],
        "metadata": {},
        "plan": plan(price_),
        "price": price_,
        "quantity": 1,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def plan(price_: Shape) -> Shape:
    """The older word for a price, which items carry still."""
    recurring = price_["recurring"] or {"interval": "month"}
    return {
        **{name: price_[name] for name in ("id", "active", "created", "currency", "livemode", "metadata", "product")},
        "object": "plan",
        "amount": price_["unit_amount"],
        "interval": recurring["interval"],
        "interval_count": 1,
    }


def subscription(object_id: str, created: int, customer_id: str, currency: str) -> Shape:
    return shape(
        "subscription",
        object_id,
        created,
        application=None,
        automatic_tax={"enabled": False, "liability": None, "disabled_reason": None},
        billing_cycle_anchor=created,
        billing_mode={"type": "flexible", "flexible": None},
        billing_schedules=[],
        cancel_at=None,
        cancel_at_period_end=False,
        canceled_at=None,
        collection_method="charge_automatically",
        currency=currency,
        customer=customer_id,
        default_payment_method=None,
        discounts=[],
        ended_at=None,
        invoice_settings={"issuer": {"type": "self"}, "account_tax_ids": None},
        items=listed("/v1/subscription_items", []),
        latest_invoice=None,
        pause_collection=None,
        pending_setup_intent=None,
        pending_update=None,
        schedule=None,
        start_date=created,
        status="incomplete",
        test_clock=None,
        trial_end=None,
        trial_start=None,
    )


def invoice(object_id: str, created: int, subscription_: Shape, reason: str, number: int, base: str) -> Shape:
    details = {"metadata": subscription_["metadata"], "subscription": subscription_["id"]}
    return shape(
        "invoice",
        object_id,
        created,
        amount_due=0,
        amount_overpaid=0,
        amount_paid=0,
        amount_remaining=0,
        amount_shipping=0,
        attempt_count=0,
        attempted=False,
        auto_advance=True,
        automatic_tax=NO_TAX,
        billing_reason=reason,
        collection_method="charge_automatically",
        currency=subscription_["currency"],
        customer=subscription_["customer"],
        customer_address=None,
        customer_email=None,
        customer_tax_ids=[],
        default_payment_method=None,
        default_tax_rates=[],
        discounts=[],
        ending_balance=None,
        hosted_invoice_url=f"{base}/invoice/{object_id}",
        invoice_pdf=f"{base}/invoice/{object_id}",
        issuer={"type": "self"},
        lines=listed(f"/v1/invoices/{object_id}/lines", []),
        next_payment_attempt=None,
        number=f"SIM-{number:04}",
        parent={"type": "subscription_details", "subscription_details": details, "quote_details": None},
        payment_settings={"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        payments=listed("/v1/invoice_payments", []),
        period_end=created,
        period_start=created,
        post_payment_credit_notes_amount=0,
        pre_payment_credit_notes_amount=0,
        starting_balance=0,
        status="draft",
        status_transitions=dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        subtotal=0,
        test_clock=None,
        total=0,
        total_discount_amounts=[],
        total_taxes=[],
    )


def line(object_id: str, item: Shape, price_: Shape, amount: int, period: tuple[int, int], *, proration: bool) -> Shape:
    details = {"invoice_item": None, "proration": proration, "proration_details": None}
    pricing = {"price_details": {"price": price_["id"], "product": price_["product"]}}
    parent = {
        "type": "subscription_item_details",
        "subscription_item_details": {
            **details,
            "subscription": item["subscription"],
            "subscription_item": item["id"],
        },
        "invoice_item_details": None,
    }
    return {
        "id": object_id,
        "object": "line_item",
        "amount": amount,
        "currency": price_["currency"],
        "description": None,
        "discountable": not proration,
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "period": {"start": period[0], "end": period[1]},
        "pricing": {**pricing, "type": "price_details", "unit_amount_decimal": str(price_["unit_amount"])},
        "quantity": 1,
        "subtotal": amount,
        "taxes": [],
    }


def invoice_payment(object_id: str, created: int, invoice_: Shape, intent_id: str) -> Shape:
    return {
        "id": object_id,
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice_["amount_due"],
        "created": created,
        "currency": invoice_["currency"],
        "invoice": invoice_["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent_id},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def payment_intent(object_id: str, created: int, customer_id: str, amount: int, currency: str) -> Shape:
    return shape(
        "payment_intent",
        object_id,
        created,
        amount=amount,
        amount_capturable=0,
        amount_received=0,
        capture_method="automatic",
        client_secret=f"{object_id}_secret_simulated",
        confirmation_method="automatic",
        currency=currency,
        customer=customer_id,
        last_payment_error=None,
        latest_charge=None,
        next_action=None,
        payment_method=None,
        payment_method_types=["card"],
        status="requires_payment_method",
    )


def charge(object_id: str, created: int, intent: Shape, method: Shape, base: str, failure: str) -> Shape:
    card = {name: method["card"][name] for name in ("brand", "country", "fingerprint", "last4")}
    return shape(
        "charge",
        object_id,
        created,
        amount=intent["amount"],
        amount_captured=0 if failure else intent["amount"],
        amount_refunded=0,
        billing_details=method["billing_details"],
        captured=not failure,
        currency=intent["currency"],
        customer=intent["customer"],
        disputed=False,
        failure_code=failure or None,
        failure_message="Your card was declined." if failure else None,
        paid=not failure,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": card},
        receipt_url=None if failure else f"{base}/receipt/{object_id}",
        refunded=False,
        status="failed" if failure else "succeeded",
    )


def repayment(object_id: str, created: int, charge_: Shape, amount: int) -> Shape:
    fields = {"charge": charge_["id"], "payment_intent": charge_["payment_intent"], "reason": None}
    found = shape(
        "refund", object_id, created, amount=amount, currency=charge_["currency"], status="succeeded", **fields
    )
    del found["livemode"]  # a refund has none
    return found


def balance_transaction(object_id: str, created: int, customer_: Shape, amount: int, currency: str) -> Shape:
    return shape(
        "customer_balance_transaction",
        object_id,
        created,
        amount=amount,
        checkout_session=None,
        credit_note=None,
        currency=currency,
        customer=customer_["id"],
        customer_account=None,
        description=None,
        ending_balance=customer_["balance"],
        invoice=None,
        type="adjustment",
    )


def dispute(object_id: str, created: int, charge_: Shape) -> Shape:
    evidence = {
        "due_by": created + 7 * 86_400,
        "enhanced_eligibility": {},
        "has_evidence": False,
        "past_due": False,
        "submission_count": 0,
    }
    return shape(
        "dispute",
        object_id,
        created,
        amount=charge_["amount"],
        balance_transactions=[],
        charge=charge_["id"],
        currency=charge_["currency"],
        enhanced_eligibility_types=[],
        evidence={},
        evidence_details=evidence,
        is_charge_refundable=False,
        payment_intent=charge_["payment_intent"],
        reason="fraudulent",
        status="needs_response",
    )


def checkout_session(object_id: str, created: int, mode: str, base: str) -> Shape:
    texts = dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance"))
    return shape(
        "checkout.session",
        object_id,
        created,
        allow_promotion_codes=None,
        amount_subtotal=0,
        amount_total=0,
        automatic_tax=NO_TAX,
        cancel_url=None,
        client_reference_id=None,
        currency="usd",
        custom_fields=[],
        custom_text=texts,
        customer=None,
        customer_details=None,
        customer_email=None,
        discounts=[],
        expires_at=created + 86_400,
        invoice=None,
        locale=None,
        mode=mode,
        payment_intent=None,
        payment_method_types=["card"],
        payment_status="unpaid",
        shipping_options=[],
        status="open",
        subscription=None,
        success_url=None,
        tax_id_collection={"enabled": False, "required": "never"},
        ui_mode="hosted_page",
        url=f"{base}/checkout/{object_id}",
    )


def subscription_schedule(object_id: str, created: int, subscription_: Shape, phases: list[Shape]) -> Shape:
    defaults = {
        "application_fee_percent": None,
        "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
        "billing_cycle_anchor": "automatic",
        "collection_method": "charge_automatically",
        "default_payment_method": None,
        "invoice_settings": {"issuer": {"type": "self"}},
    }
    return shape(
        "subscription_schedule",
        object_id,
        created,
        billing_mode=subscription_["billing_mode"],
        canceled_at=None,
        completed_at=None,
        current_phase={name: phases[0][name] for name in ("start_date", "end_date")},
        customer=subscription_["customer"],
        default_settings=defaults,
        end_behavior="release",
        phases=phases,
        released_at=None,
        released_subscription=None,
        status="active",
        subscription=subscription_["id"],
        test_clock=None,
    )


def portal_session(object_id: str, created: int, customer_id: str, configuration_id: str, base: str) -> Shape:
    found = shape("billing_portal.session", object_id, created, customer=customer_id, configuration=configuration_id)
    del found["metadata"]
    return {**found, "url": f"{base}/portal/{object_id}", "return_url": None, "flow": None, "locale": None}


def portal_configuration(object_id: str, created: int, features: Shape) -> Shape:
    return shape(
        "billing_portal.configuration",
        object_id,
        created,
        active=True,
        business_profile={"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        default_return_url=None,
        features=features,
        is_default=False,
        login_page={"enabled": False, "url": None},
        updated=created,
    )


def coupon(object_id: str, created: int) -> Shape:
    fields = {"amount_off": None, "currency": None, "percent_off": None, "duration_in_months": None, "name": None}
    return shape("coupon", object_id, created, duration="once", times_redeemed=0, valid=True, **fields)


def promotion_code(object_id: str, created: int, code: str, coupon_id: str) -> Shape:
    restrictions = {
        "first_time_transaction": False,
        "minimum_amount": None,
        "minimum_amount_currency": None,
    }
    promotion = {"type": "coupon", "coupon": coupon_id}
    fields = {"active": True, "code": code, "promotion": promotion, "restrictions": restrictions}
    return shape("promotion_code", object_id, created, times_redeemed=0, **fields)


def webhook_endpoint(object_id: str, created: int, url: str, events: list[str], secret: str) -> Shape:
    fields = {"application": None, "description": None, "enabled_events": events, "status": "enabled", "url": url}
    return shape("webhook_endpoint", object_id, created, api_version=API_VERSION, secret=secret, **fields)


def event(object_id: str, created: int, kind: str, about: Shape) -> Shape:
    found = shape("event", object_id, created, type=kind, api_version=API_VERSION, data={"object": about})
    del found["metadata"]
    return {**found, "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}}
