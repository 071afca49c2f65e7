"""Makes, after migrations, what search goes faster with, and fills what it needs.

This is no migration because it is tried again after each `migrate`: PostgreSQL may refuse the extension until an
administrator creates it, and processes of the release before go on writing titles without their folded form until they
are restarted.
"""

import logging
from typing import Any

from django.db import DatabaseError, connections, router

from core.indexing import has_index
from core.sweeps import iterate_pages
from history.folding import fold
from history.models import Conversation, Turn

logger = logging.getLogger(__name__)

INDEXES = {"turn_words": (Turn, "search_text"), "conversation_words": (Conversation, "search_title")}
"""PostgreSQL's trigram indexes, by name: of which model, and which field."""
HINT = (
    "Search works without it, more slowly. To have it, an administrator of PostgreSQL runs “CREATE EXTENSION pg_trgm;” "
    "in this database; then run “manage.py prepare” again."
)


def prepare_search(using: str, **_signal: Any) -> None:
    """Fold the titles that are not yet, and make the trigram indexes where the database is PostgreSQL."""
    if using != router.db_for_write(Turn) or not _is_migrated():
        return
    for page in iterate_pages(Conversation.objects.filter(search_title=None)):
        for conversation in page:
            # The condition keeps what somebody else has written meanwhile.
            same = Conversation.objects.filter(pk=conversation.pk, title=conversation.title)
            same.update(search_title=fold(conversation.title))
    if connections[using].vendor == "postgresql":
        _make_trigram_indexes(using)


def _is_migrated() -> bool:
    """Return whether the database has been migrated as far as this: it may have been migrated back."""
    try:
        Conversation.objects.filter(search_title=None).exists()
    except DatabaseError:
        return False
    return True


def _make_trigram_indexes(using: str) -> None:
    connection = connections[using]
    with connection.cursor() as cursor:
        try:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        except DatabaseError as error:
            logger.warning("The extension pg_trgm was not created: %s %s", str(error).strip(), HINT)
            return
        cursor.execute(
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
            " WHERE extname = 'pg_trgm'"
        )
        schema = cursor.fetchone()[0]
        for name, (model, field) in INDEXES.items():
            table = connection.ops.quote_name(model._meta.db_table)
            if has_index(connection, model, name):
                continue
            # Beside those who write: the table of a site that is in use is not locked.
            cursor.execute(f'CREATE INDEX CONCURRENTLY {name} ON {table} USING gin ("{field}" {schema}.gin_trgm_ops)')
