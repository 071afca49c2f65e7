"""MongoDB's backend for Django, which says when the server is away: see base.py."""
