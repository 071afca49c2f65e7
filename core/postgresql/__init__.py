"""Django's PostgreSQL backend, with connections that survive bad nights: see base.py."""
