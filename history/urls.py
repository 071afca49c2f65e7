from django.urls import path

from history import views

urlpatterns = [
    path("conversations/", views.conversations, name="conversations"),
    path("c/<uuid:conversation_id>/rename/", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/delete/", views.delete, name="delete"),
]
