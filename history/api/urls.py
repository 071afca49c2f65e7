from django.urls import path

from history.api import views

urlpatterns = [
    path("conversations", views.conversations),
    path("conversations/<uuid:conversation_id>", views.conversation),
    path("conversations/<uuid:conversation_id>/restore", views.restore),
    path("folders", views.folders_view),
    path("folders/<uuid:folder_id>", views.folder),
]
