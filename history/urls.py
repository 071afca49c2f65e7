from django.urls import path

from history import views
from history.transfer import pages as transfers

urlpatterns = [
    path("conversations/", views.conversations, name="conversations"),
    path("c/<uuid:conversation_id>/rename/", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/delete/", views.delete, name="delete"),
    path("c/<uuid:conversation_id>/export/", transfers.export, name="export"),
    path("c/<uuid:conversation_id>/export/<str:form>/", transfers.export_file, name="export_file"),
    path("settings/import-export/", transfers.transfers, name="transfers"),
    path("settings/import-export/progress/", transfers.progress, name="transfer_progress"),
    path("settings/import-export/export/", transfers.export_all, name="export_all"),
    path("settings/import-export/<uuid:export_id>/", transfers.download, name="download_export"),
]
