from django.urls import path

from billing.api import views

urlpatterns = [path("allowance", views.allowance)]
