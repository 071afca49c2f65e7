"""`manage.py smoke_providers`, which asks providers in earnest, against mock servers."""

from io import BytesIO, StringIO
from typing import Any

import pypdfium2
import pytest
from django.core.management import call_command
from llmock.pytest_plugin import LLMock
from PIL import Image
from pytest_django import Settings

from chat.llm.smoke import QUESTIONS, tiny_pdf, tiny_png
from chat.models import LanguageModel
from testbed.provider import FakeProvider
from tests.chat.conftest import Offer

ALL_RIGHT = "pong 60 red walrus"
KNOWN_TO_LLMOCK = {
    "gpt-6-luna": "gpt-4o",
    "claude-haiku-5-5": "claude-sonnet-4-6",
    "gemini-3.5-flash-lite": "gemini-2.5-pro",
}


@pytest.fixture
def three(catalog: None, llmock: LLMock, settings: Settings) -> LLMock:
    """Three providers with a key, and one model each that the mock server knows."""
    for name, version in (("openai", ""), ("anthropic", ""), ("gemini", "/v1beta")):
        setattr(settings, f"{name.upper()}_API_KEY", "sk-secret-of-the-house")
        setattr(settings, f"{name.upper()}_BASE_URL", llmock.base_url(name) + version)
    for key, known in KNOWN_TO_LLMOCK.items():
        model = LanguageModel.objects.get(key=key)
        model.provider_model = known
        model.save()
    return llmock


def smoke() -> tuple[list[str], int]:
    """Return the lines it prints, the last one left out, and its exit code."""
    out = StringIO()
    code: Any = 0
    try:
        call_command("smoke_providers", stdout=out)
    except SystemExit as left:
        code = left.code
    return out.getvalue().splitlines(), code


def test_the_picture_and_the_document_are_what_they_are_said_to_be():
    with Image.open(BytesIO(tiny_png())) as image:
        assert (image.size, image.convert("RGB").getpixel((30, 30))) == ((64, 64), (255, 0, 0))
    with pypdfium2.PdfDocument(tiny_pdf()) as document:
        assert document[0].get_textpage().get_text_bounded() == "The secret word is walrus."


def test_three_providers_are_asked_everything_by_both_transports(three: LLMock):
    three.pace(5)
    three.reply(ALL_RIGHT + " more" * 20, times=None)
    lines, code = smoke()
    assert code == 0, lines
    assert len(lines) == 3 * len(QUESTIONS) * 2 + 1
    assert all("as expected" in line and "tokens in" in line for line in lines[:-1])
    assert lines[-1].startswith("24 questions, 0 not as expected, 0.0")


def test_what_differs_is_told_and_is_a_failure(three: LLMock):
    three.fail(401, times=None, provider="anthropic")
    three.reply("nothing of the kind", times=None)
    lines, code = smoke()
    assert code == 1
    assert all("DIFFERS: error authentication, status 401" in line for line in lines if line.startswith("anthropic"))
    told = [line for line in lines if line.startswith("gemini")]
    assert all("is not in 'nothing of the kind'" in line for line in told)
    assert lines[-1].startswith("24 questions, 24 not as expected")
    assert "sk-secret" not in "".join(lines)


@pytest.mark.parametrize(
    ("script", "difference"),
    [
        ("fake-20t-1ms-echo8-nousage", "no usage; cost is unknown"),
        ("fake-20t-1ms-echo8-length", "finish is length"),
        ("fake-0t-1ms", "no text"),
        ("fake-20t-1ms-echo8-nofinish", "error truncated"),
        ("status-429", "error rate_limited, status 429"),
    ],
)
def test_each_difference_has_its_words(offer: Offer, provider: FakeProvider, script: str, difference: str):
    offer(script)
    lines, code = smoke()
    assert code == 1
    assert all(difference in line for line in lines if " plain " in line), lines


def test_usage_that_is_not_believed_is_a_difference(offer: Offer, provider: FakeProvider):
    offer("fake-40t-1ms-echo4", context_window=5, max_output=4)
    lines, code = smoke()
    assert code == 1
    assert all("usage is not believed: input_above_window" in line for line in lines if " plain " in line), lines


def test_a_model_that_takes_no_files_is_sent_none(offer: Offer, provider: FakeProvider):
    offer("fake-40t-1ms-echo4")
    lines, code = smoke()
    assert code == 0, lines
    assert [line.split()[1] for line in lines if "not asked" in line] == ["image", "pdf"]
    assert len(provider.requests) == 4
    assert all(isinstance(message["content"], str) for asked in provider.requests for message in asked["messages"])


def test_the_cheapest_model_that_sees_is_asked_about_a_picture(offer: Offer, provider: FakeProvider):
    offer("fake-40t-1ms-echo4", output_price=1)
    offer("fake-41t-1ms-echo4", output_price=2, sees_images=True)
    offer("fake-42t-1ms-echo4", output_price=3, sees_images=True)
    lines, _ = smoke()
    assert [line.split()[3].rstrip(":") for line in lines if " image " in line] == ["fake-41t-1ms-echo4"] * 2


def test_a_provider_without_a_model_is_told(catalog: None, settings: Settings):
    settings.OPENAI_COMPATIBLE_BASE_URL = "http://127.0.0.1:9/v1"
    lines, code = smoke()
    assert code == 1
    assert "no model of it is on offer" in lines[0]


def test_without_a_key_nothing_is_asked(catalog: None):
    assert smoke() == (["No provider has a key: nothing was asked."], 0)
