"""What operators are told of providers."""

from django.utils.translation import gettext_noop

from chat.llm.breaker import api_key_digest
from chat.llm.providers.base import Provider
from core.alerts import alert

ERROR_SENTENCES: dict[str, str] = {
    "authentication": gettext_noop(
        "%(provider)s refuses our key. Until it is replaced, people are not answered with it."
    ),
    "permission": gettext_noop(
        "%(provider)s does not let our key use %(model)s: look at its rights, and at what is to be paid."
    ),
    "not_found": gettext_noop("%(provider)s does not know the model %(model)s. It may have been retired."),
    "redirected": gettext_noop(
        "%(provider)s sends our requests to another address, which is not asked. Is its base URL right?"
    ),
}
"""What the operator reads, for each code that waiting does not mend."""
WHOLE_PROVIDER_CODES = frozenset(("authentication", "redirected"))
"""Those of them that no model of the provider is spared."""


def alert_of_error(provider: Provider, model: str, code: str) -> None:
    """Alert the operators of an error that waiting does not mend; ignore any other."""
    if sentence := ERROR_SENTENCES.get(code):
        digest = api_key_digest(provider.api_key)
        where = provider.slug if code in WHOLE_PROVIDER_CODES else f"{provider.slug}:{model}"
        alert(f"{where}:{code}:{digest}", sentence, provider=provider.name, model=model, code=code, key=digest)
