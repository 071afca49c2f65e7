"""The site's addresses where mail is caught."""

from django.urls import path

from config import mail
from config.urls import urlpatterns as ours

urlpatterns = [*ours, path("mail/", mail.caught, name="mail")]
