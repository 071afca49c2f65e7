"""Celery tasks of billing."""

from celery import shared_task

from billing import letters, reconciliation
from core.sweeps import guard


@shared_task(expires=60)
def work_off_billing() -> None:
    """Do what gateways told and what is to be done there. Runs every minute, and whenever something came in."""
    reconciliation.work_off()


@shared_task(expires=600)
def ask_gateways() -> None:
    """Ask about what should have been heard of, and write down mails that are due. Runs every ten minutes."""
    reconciliation.ask_about_expected()
    letters.note_due()


@shared_task(expires=3600)
def compare_with_gateways() -> None:
    """Compare with everything that is alive at the gateways. Runs every six hours."""
    reconciliation.reconcile()


@shared_task(expires=3600)
def nightly() -> None:
    """Prove that the ledger adds up, let periods follow their plans, write statements, and delete what is old."""
    for step in (reconciliation.prove, reconciliation.follow_plans, letters.note_statements, reconciliation.prune):
        with guard(step.__name__):
            step()
