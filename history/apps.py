from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class HistoryConfig(AppConfig):
    name = "history"
    verbose_name = _("History")

    def ready(self) -> None:
        from history import receivers  # noqa: F401  it connects them
        from history.text_indexes import prepare_search

        post_migrate.connect(prepare_search, sender=self)
