from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = _("Chat")

    def ready(self) -> None:
        from chat import receivers  # noqa: F401  connects them; models are not there before
        from chat.batches import receivers as of_batches  # noqa: F401  the same
        from chat.batches import taking_along as along  # noqa: F401  the same
        from chat.shown import taking_along  # noqa: F401  the same
