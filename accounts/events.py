"""What happens at the doors of the site, as log lines that an operator can search and count (docs/production.md)."""

import logging

from django.utils.crypto import salted_hmac

logger = logging.getLogger(__name__)


def record(event: str, *, peer: str | None, user_id: int | None = None, email: str | None = None, **more: str) -> None:
    """Log an event: whose account, and from which address. An e-mail address that was only typed may be anybody's: it
    is logged as a digest, which is the same for the same address and cannot be turned back."""
    fields: dict[str, object] = {"event": event, "peer": peer, "user_id": user_id, **more}
    if email is not None:
        fields["email_digest"] = salted_hmac("accounts.events", email).hexdigest()[:16]
    logger.info("Account event", extra={name: value for name, value in fields.items() if value is not None})
