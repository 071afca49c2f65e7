from django.urls import path

from chat.api import keys, views

urlpatterns = [
    path("models", views.models),
    path("conversations/<uuid:conversation_id>/turns", views.turns),
    path("conversations/<uuid:conversation_id>/shares", views.conversation_shares),
    path("shares", views.shares),
    path("shares/<uuid:share_id>", views.share),
    path("shares/<uuid:share_id>/update", views.update_share),
    path("turns/<uuid:turn_id>", views.turn),
    path("turns/<uuid:turn_id>/events", views.events),
    path("turns/<uuid:turn_id>/stop", views.stop),
    path("turns/<uuid:turn_id>/fork", views.fork),
    path("attachments", views.attachments),
    path("attachments/<uuid:attachment_id>", views.attachment),
    path("attachments/<uuid:attachment_id>/content", views.attachment_content),
    path("search", views.search),
    path("socket-tickets", views.socket_tickets),
    path("keys", keys.api_keys),
    path("keys/<uuid:key_id>", keys.api_key),
]
