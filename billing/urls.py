from django.urls import path

from billing import webhooks

urlpatterns = [
    path("stripe/webhook/<uuid:uuid>/", webhooks.stripe, name="stripe_webhook"),
    path("webhooks/mercadopago/", webhooks.mercado_pago, name="mercadopago_webhook"),
]
