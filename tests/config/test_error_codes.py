"""docs/api.md says of every error code what to do: a new one cannot be forgotten."""

import re
from pathlib import Path

from django.conf import settings
from rest_framework import exceptions

from accounts.social import ConnectedElsewhere, LastWayIn
from billing import errors as billing_errors
from chat.batches.refusals import ENDINGS, FILE_REFUSALS, LINE_PROBLEMS
from chat.batches.results import LOST
from chat.errors import FILE_SENTENCES, SENTENCES, AskedLost, BadCommand
from chat.turns.completing import AboveLimit
from config.openapi.generation import Generator
from core.errors import DomainError
from history.transfer.refusals import REFUSALS
from tests.fuzz.judging import documented_codes

APPS = ("accounts", "billing", "chat", "config", "core", "history")
OF_PAGES = (
    *(billing_errors.AlreadySubscribed, billing_errors.PaymentOverdue, billing_errors.NotSubscribed),
    *(billing_errors.NotForSale, billing_errors.UnknownCoupon, billing_errors.OtherCurrency),
    *(billing_errors.NothingToRefund, billing_errors.RefundUnderway, billing_errors.NothingToTry),
    *(billing_errors.GatewaySilent, billing_errors.GatewayDeclined),
)
"""What is bought and paid on the pages alone."""
ELSEWHERE = {*OF_PAGES, BadCommand, AskedLost, AboveLimit, ConnectedElsewhere, LastWayIn}
"""And what the socket alone says, a turn, a batch, and the page of ways to log in."""
OTHERWISE = {"error", "not_acceptable", "throttled"}
"""What REST framework has and config/api.py says in other words, and what nobody answers."""
OF_FIELDS = {"unique", "password_too_common", "password_too_similar"}
"""Codes inside of `fields`, which are sentences."""


def sub_classes(kind: type) -> set[type]:
    return {one for sub in kind.__subclasses__() for one in (sub, *sub_classes(sub))}


def codes_of_table(title: str) -> set[str]:
    """Return the codes of the table of docs/api.md whose first column is called so."""
    text = (Path(settings.BASE_DIR) / "docs/api.md").read_text()
    table = text.partition(f"| {title} | what to do |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", table, re.MULTILINE)
    assert all(len(advice) > 5 for _code, advice in rows)
    return {code for code, _advice in rows}


def errors_of_the_api() -> set[type[DomainError]]:
    """Return those of our own API: OpenAI's has errors of its own."""
    ours = {one for one in sub_classes(DomainError) if one.__module__.partition(".")[0] in APPS}
    return {one for one in ours - ELSEWHERE if not one.__module__.startswith("chat.api.openai")}


def codes_of_the_code() -> set[str]:
    of_classes = {one.code for one in errors_of_the_api()}
    of_framework = {one.default_code for one in sub_classes(exceptions.APIException)}
    literal = {
        code
        for app in APPS
        for path in (settings.BASE_DIR / app).rglob("*.py")
        if not {"embedded", "openai"} & set(path.parts)
        for code in re.findall(r'\bcode="([a-z_]+)"', path.read_text())
    }
    return of_classes | of_framework | literal - OF_FIELDS


def test_every_code_that_a_request_may_get_is_told():
    told = {code for codes in documented_codes().values() for code in codes}
    assert codes_of_the_code() - told - OTHERWISE == set()


def test_every_error_is_told_with_its_status():
    told = documented_codes()
    for one in errors_of_the_api():
        assert one.code == "error" or one.code in told[one.status], one


def test_no_code_is_told_that_nobody_answers():
    told = {code for codes in documented_codes().values() for code in codes}
    of_files = {*FILE_SENTENCES, *FILE_REFUSALS, *REFUSALS}
    known = codes_of_the_code() | of_files | {"forbidden", "token_not_valid"}
    assert told - known == set()


def test_every_code_of_the_openapi_document_is_told():
    told = documented_codes()
    for path, ways in Generator().get_schema(public=True)["paths"].items():
        for operation in ways.values():
            for status, answer in operation["responses"].items():
                if status >= "4":
                    missing = set(re.findall(r"`([a-z_]+)`", answer["description"])) - told.get(int(status), set())
                    assert not missing, f"{path} {status}"


def test_every_code_of_a_finished_turn_is_told():
    assert codes_of_table("code of a turn") == set(SENTENCES)


def test_every_code_of_a_file_is_told():
    told = {code for codes in documented_codes().values() for code in codes}
    assert codes_of_table("code of a refused file") | told >= set(FILE_SENTENCES)


def test_every_code_of_an_import_is_told():
    told = {code for codes in documented_codes().values() for code in codes}
    assert codes_of_table("code of a refused import") | told >= set(REFUSALS)


def test_every_code_of_a_batch_is_told():
    text = (Path(settings.BASE_DIR) / "docs/api.md").read_text()
    section = text.partition("\n## Batches\n")[2].partition("\n## ")[0]
    assert {*ENDINGS, *LINE_PROBLEMS, LOST, "batch_cancelled"} - set(re.findall(r"`([a-z_]+)`", section)) == set()
    told = {code for codes in documented_codes().values() for code in codes}
    assert set(FILE_REFUSALS) - told == set()
