from django.urls import path

from accounts.api import views

urlpatterns = [
    path("auth/register", views.register),
    path("auth/login", views.login),
    path("auth/refresh", views.refresh),
    path("auth/logout", views.logout),
    path("auth/logout-everywhere", views.logout_everywhere),
    path("me", views.me),
]
