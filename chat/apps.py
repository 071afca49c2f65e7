from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = _("Chat")

    def ready(self) -> None:
        from chat import receivers  # noqa: F401  connects them; models are not there before
        from chat.shown import taking_along  # noqa: F401  the same
