from django.urls import path

from chat.batches import api

urlpatterns = [
    path("batches", api.batches),
    path("batches/<uuid:batch_id>", api.batch),
    path("batches/<uuid:batch_id>/start", api.start),
    path("batches/<uuid:batch_id>/cancel", api.cancel),
    path("batches/<uuid:batch_id>/results", api.results),
]
