"""What an operator must hear of."""

import logging

from django.core.mail import mail_admins

logger = logging.getLogger(__name__)


def alert(subject: str, sentence: str, **fields: object) -> None:
    """Tell the operator: in the log, and by mail to ADMINS. A mail that cannot be sent is no error."""
    logger.error("%s: %s", subject, sentence, extra=fields)
    mail_admins(subject, sentence, fail_silently=True)
