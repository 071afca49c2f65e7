from django.urls import path

from history import views

urlpatterns = [
    path("conversations/", views.conversations, name="conversations"),
    path("conversations/sidebar/", views.sidebar, name="sidebar"),
    path("conversations/archive/", views.archive, name="archive"),
    path("conversations/trash/", views.trash_page, name="trash"),
    path("conversations/change/", views.change, name="order"),
    path("c/<uuid:conversation_id>/rename/", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/move/", views.move, name="move"),
]
