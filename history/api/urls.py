from django.urls import path

from history.api import transfers, views

urlpatterns = [
    path("conversations", views.conversations),
    path("conversations/<uuid:conversation_id>", views.conversation),
    path("conversations/<uuid:conversation_id>/restore", views.restore),
    path("folders", views.folders_view),
    path("folders/<uuid:folder_id>", views.folder),
    path("conversations/<uuid:conversation_id>/export", transfers.conversation_export),
    path("imports", transfers.imports),
    path("imports/<uuid:import_id>", transfers.one_import),
    path("exports", transfers.exports),
    path("exports/<uuid:export_id>", transfers.one_export),
    path("exports/<uuid:export_id>/content", transfers.export_content),
]
