"""dj-stripe's tables as one generated migration: its own take more than a minute on a new database.

A newer dj-stripe: set MADE_FROM, run `manage.py makemigrations djstripe`, and `make check-djstripe`.
"""

MADE_FROM = "2.11.0"
"""The dj-stripe whose models the migration makes."""
