from django.urls import path, re_path

from chat.api.openai import views

urlpatterns = [
    path("models", views.models),
    path("models/<path:model_id>", views.model),
    path("chat/completions", views.chat_completions),
    re_path("", views.unknown),
]
