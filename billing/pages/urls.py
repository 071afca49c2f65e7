from django.urls import path

from billing.pages import views

urlpatterns = [
    path("pricing/", views.pricing, name="pricing"),
    path("billing/", views.billing, name="billing"),
    path("billing/checkout/<int:price_id>/", views.checkout, name="checkout"),
    path("billing/pay/<slug:key>/", views.pay, name="billing_pay"),
    path("billing/return/<slug:key>/", views.come_back, name="billing_return"),
    path("billing/change/<int:price_id>/", views.change, name="billing_change"),
    path("billing/cancel/", views.cancel, name="billing_cancel"),
    path("billing/resume/", views.resume, name="billing_resume"),
    path("billing/payment-method/", views.payment_method, name="payment_method"),
    path("billing/payments/", views.payments, name="payments"),
    path("billing/refund/<int:payment_id>/", views.refund, name="refund"),
    path("billing/seen/", views.seen, name="billing_seen"),
    path("usage/", views.usage, name="usage"),
    path("usage/csv/", views.usage_csv, name="usage_csv"),
]
