from django.urls import path

from chat import views

urlpatterns = [
    path("", views.home, name="home"),
    path("c/<uuid:conversation_id>/", views.conversation, name="conversation"),
    path("turns/<uuid:turn_id>/", views.turn, name="turn"),
    path("turns/<uuid:turn_id>/earlier/", views.earlier, name="earlier"),
    path("turns/<uuid:turn_id>/stop/", views.stop, name="stop"),
    path("dashboard/", views.dashboard, name="dashboard"),
]
