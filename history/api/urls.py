from django.urls import path

from history.api import views

urlpatterns = [
    path("conversations", views.conversations),
    path("conversations/<uuid:conversation_id>", views.conversation),
]
