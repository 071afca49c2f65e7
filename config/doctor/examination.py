"""Everything that is examined, in the order in which one thing stands on another."""

from collections.abc import Iterator, Mapping

from config.doctor.configuration import examine_settings
from config.doctor.databases import examine_databases
from config.doctor.findings import Examination, Finding, fail
from config.doctor.machine import examine_machine
from config.doctor.people import examine_operators
from config.doctor.processes import examine_processes
from config.doctor.redis_server import examine_redis
from config.doctor.services import examine_mail, examine_providers
from config.doctor.way_in import examine_way_in, examine_webhooks
from config.reachability import StoreUnreachableError, check_stores

EXAMINATIONS: Mapping[str, Examination] = {
    "machine": examine_machine,
    "Redis": examine_redis,
    "databases": examine_databases,
    "settings": examine_settings,
    "processes": examine_processes,
    "way in": examine_way_in,
    "webhooks": examine_webhooks,
    "mail": examine_mail,
    "providers": examine_providers,
    "operators": examine_operators,
}
WITHOUT_STORES = ("machine", "mail")


def examine_everything() -> Iterator[Finding]:
    """Yield what is found; what breaks an examination is a finding, too."""
    examined = list(EXAMINATIONS)
    try:
        check_stores()
    except StoreUnreachableError as error:
        yield fail("stores", str(error), "Until every store answers, doctor looks at nothing else that needs them.")
        examined = list(WITHOUT_STORES)
    for name in examined:
        try:
            yield from EXAMINATIONS[name]()
        except Exception as error:  # noqa: BLE001  the others are still worth knowing
            yield fail(
                name, f"It could not be examined: {type(error).__name__}: {error}", "Mend what stands above first."
            )
