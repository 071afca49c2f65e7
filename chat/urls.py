from django.urls import path

from chat.pages import folders, share_views, views

urlpatterns = [
    path("", views.home, name="home"),
    path("c/<uuid:conversation_id>/", views.conversation, name="conversation"),
    path("folders/new/", folders.new_folder, name="new_folder"),
    path("folders/<uuid:folder_id>/", folders.folder, name="folder"),
    path("folders/<uuid:folder_id>/change/", folders.edit_folder, name="change_folder"),
    path("folders/<uuid:folder_id>/delete/", folders.remove_folder, name="delete_folder"),
    path("turns/<uuid:turn_id>/", views.turn, name="turn"),
    path("turns/<uuid:turn_id>/earlier/", views.earlier, name="earlier"),
    path("turns/<uuid:turn_id>/stop/", views.stop, name="stop"),
    path("c/<uuid:conversation_id>/share/", share_views.share_conversation, name="share"),
    path("turns/<uuid:turn_id>/share/", share_views.share_up_to_turn, name="share_turn"),
    path("settings/shares/", share_views.list_own_shares, name="shares"),
    path("settings/shares/<uuid:share_id>/update/", share_views.update_own_share, name="update_share"),
    path("settings/shares/<uuid:share_id>/stop/", share_views.stop_own_share, name="stop_share"),
    path("share/<str:token>/", share_views.open_shared_page, name="shared"),
    path("share/<str:token>/report/", share_views.report_shared_page, name="report_share"),
    path("share/<str:token>/copy/", share_views.copy_shared_page, name="copy_share"),
    path("search/", views.search, name="search"),
    path("palette/", views.palette, name="palette"),
    path("shortcuts/", views.shortcuts, name="shortcuts"),
    path("picker/", views.picker, name="picker"),
    path("attachments/<uuid:attachment_id>/", views.attachment, name="attachment"),
    path("attachments/<uuid:attachment_id>/preview/", views.preview, name="preview"),
    path("key-card/close/", views.close_key_card, name="close_key_card"),
    path("dashboard/", views.dashboard, name="dashboard"),
]
