from django.urls import path

from history import views
from history.transfer import pages as transfers

urlpatterns = [
    path("conversations/", views.conversations, name="conversations"),
    path("conversations/sidebar/", views.sidebar, name="sidebar"),
    path("conversations/archive/", views.archive, name="archive"),
    path("conversations/trash/", views.trash_page, name="trash"),
    path("conversations/change/", views.change, name="order"),
    path("c/<uuid:conversation_id>/rename/", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/move/", views.move, name="move"),
    path("c/<uuid:conversation_id>/export/", transfers.choose_form, name="export"),
    path("c/<uuid:conversation_id>/export/<str:form>/", transfers.export_file, name="export_file"),
    path("settings/import-export/", transfers.transfers, name="transfers"),
    path("settings/import-export/progress/", transfers.progress, name="transfer_progress"),
    path("settings/import-export/export/", transfers.export_all, name="export_all"),
    path("settings/import-export/<uuid:export_id>/", transfers.download, name="download_export"),
]
