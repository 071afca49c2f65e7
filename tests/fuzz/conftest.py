from tests.chat.conftest import redis

__all__ = ["redis"]
