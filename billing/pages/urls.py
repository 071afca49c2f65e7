from django.urls import path, register_converter
from django.urls.converters import IntConverter

from billing.pages import views


class RowIdConverter(IntConverter):
    """As many digits as every database takes: looking for more of them is an error of SQLite's."""

    regex = "[0-9]{1,18}"


register_converter(RowIdConverter, "row_id")

urlpatterns = [
    path("pricing/", views.pricing, name="pricing"),
    path("billing/", views.billing, name="billing"),
    path("billing/checkout/<row_id:price_id>/", views.checkout, name="checkout"),
    path("billing/pay/<slug:key>/", views.pay, name="billing_pay"),
    path("billing/return/<slug:key>/", views.come_back, name="billing_return"),
    path("billing/change/<row_id:price_id>/", views.change, name="billing_change"),
    path("billing/cancel/", views.cancel, name="billing_cancel"),
    path("billing/resume/", views.resume, name="billing_resume"),
    path("billing/payment-method/", views.payment_method, name="payment_method"),
    path("billing/payments/", views.payments, name="payments"),
    path("billing/refund/<row_id:payment_id>/", views.refund, name="refund"),
    path("billing/seen/", views.seen, name="billing_seen"),
    path("usage/", views.usage, name="usage"),
    path("usage/csv/", views.usage_csv, name="usage_csv"),
]
