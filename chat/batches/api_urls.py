from django.urls import path

from chat.batches import views

urlpatterns = [
    path("batches", views.batches),
    path("batches/<uuid:batch_id>", views.batch),
    path("batches/<uuid:batch_id>/start", views.start),
    path("batches/<uuid:batch_id>/cancel", views.cancel),
    path("batches/<uuid:batch_id>/results", views.results),
]
