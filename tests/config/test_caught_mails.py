"""The site of the tests reads what Django wrote for it."""

from types import SimpleNamespace

from django.core.mail import EmailMessage, get_connection

from testbed.site import Site


def test_mails_in_one_file_are_told_apart(tmp_path):
    """Django names files by second and by an object's address: two mails of a second may share one."""
    with get_connection("django.core.mail.backends.filebased.EmailBackend", file_path=tmp_path / "mail") as connection:
        for name in ("one", "two", "one"):
            EmailMessage("Hi", f"To {name}.", "site@example.com", [f"{name}@example.com"], connection=connection).send()
    assert len(list((tmp_path / "mail").iterdir())) == 1
    mails = Site.mails_to(SimpleNamespace(_folder=tmp_path), "one@example.com")  # type: ignore[arg-type]
    assert len(mails) == 2
    assert all("To one." in mail and "To two." not in mail for mail in mails)
