from django.urls import path

from billing.api import views

urlpatterns = [
    path("allowance", views.allowance),
    path("plans", views.plans),
    path("subscription", views.subscription),
    path("usage", views.usage),
]
