"""Tokens of images and pages, computed by hand from what the providers have published."""

import pytest

from chat.llm.catalog import SEED
from chat.llm.file_tokens import image_tokens, page_tokens


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        # OpenAI's own examples: 32 × 32 patches; 57 × 75 do not fit, and 1,452 would be left. The most that may be is
        # reserved.
        ("gpt-4.1-mini", (1_024, 1_024), 1_659),  # 1,024 × 1.62
        ("gpt-5-nano", (1_024, 1_024), 2_520),  # 1,024 × 2.46
        ("gpt-4.1-mini", (1_800, 2_400), 2_489),  # 1,536 × 1.62, where 1,452 × 1.62 = 2,353 are charged
        ("o4-mini", (1_024, 1_024), 1_762),  # 1,024 × 1.72
        # Measured by others: https://community.openai.com, 1.2 a patch
        ("gpt-5.2", (1_280, 720), 1_104),  # 40 × 23 × 1.2
        # The size of the image is kept: 64 × 64 patches. The one before takes 2,500 of them, or all with `original`.
        ("gpt-6-luna", (2_048, 2_048), 4_916),  # 4,096 × 1.2
        ("gpt-6.1-sol", (1_000, 700), 845),  # 32 × 22 × 1.2
        ("gpt-5.6-terra", (2_048, 2_048), 4_916),
        ("gpt-5.5", (2_048, 2_048), 4_916),
        ("gpt-5.4", (2_048, 2_048), 3_000),  # 2,500 × 1.2
        # OpenAI's own examples of tiles: 768 × 768 are four, 768 × 1,536 are six.
        ("gpt-4o", (1_024, 1_024), 765),  # 85 + 4 × 170
        ("gpt-4o", (2_048, 4_096), 1_105),  # 85 + 6 × 170
        ("gpt-4o", (2_048, 400), 765),  # as it is, 4 × 1: were its shorter side 768, it would not fit into 2,048
        ("gpt-5", (1_024, 1_024), 630),  # 70 + 4 × 140
        ("o3", (1_024, 1_024), 675),  # 75 + 4 × 150
        ("gpt-4o-mini", (1_024, 1_024), 25_501),  # 2,833 + 4 × 5,667
        # Never heard of: the highest of all factors, and no limit.
        ("gpt-9", (2_048, 2_048), 10_077),  # 4,096 × 2.46
    ],
)
def test_openai_counts_patches_or_tiles_by_model(model: str, size: tuple[int, int], tokens: int):
    assert image_tokens("openai", model, *size) == tokens


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        # Anthropic's examples: 200 × 200 are about 54, 1,000 × 1,000 about 1,334, 1,092 × 1,092 about 1,590 by pixels;
        # by patches of 28 they are 64, 1,296 and 1,521.
        ("claude-sonnet-4-5", (200, 200), 64),
        ("claude-sonnet-4-5", (1_000, 1_000), 1_334),
        ("claude-sonnet-4-5", (1_092, 1_092), 1_590),
        ("claude-haiku-4-5", (2_048, 2_048), 1_600),
        ("claude-haiku-4-5", (2_048, 100), 168),  # 1,568 × 77: 56 × 3
        ("claude-opus-4-7", (2_048, 2_048), 4_784),
        ("claude-opus-5-5", (1_400, 1_400), 2_614),  # by pixels; 2,500 by patches
        ("claude-unheard-of", (2_048, 2_048), 4_784),
    ],
)
def test_anthropic_counts_pixels_up_to_a_cap_by_model(model: str, size: tuple[int, int], tokens: int):
    assert image_tokens("anthropic", model, *size) == tokens


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("gemini-2.5-flash", (384, 384), 258),
        ("gemini-2.5-flash", (400, 100), 516),  # a side is no less than 256: 2 × 1 tiles
        ("gemini-2.5-flash", (960, 540), 1_548),  # Google's example: a side of 360, 3 × 2 tiles
        ("gemini-2.5-pro", (2_048, 2_048), 2_322),  # 3 × 3 tiles of 768
        ("gemini-3.8-flash", (60, 40), 1_120),  # whatever its size
        ("gemini-4-argon", (2_048, 2_048), 1_120),
        ("gemini-unheard-of", (2_048, 2_048), 2_322),
        ("gemini-unheard-of", (60, 40), 1_120),
    ],
)
def test_gemini_counts_tiles_or_gives_every_image_the_same(model: str, size: tuple[int, int], tokens: int):
    assert image_tokens("gemini", model, *size) == tokens


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("gemini", "gemini-3.8-flash", 560),
        ("gemini", "gemini-2.5-flash", 1_250),  # 258, and what it reads off a scan
        ("anthropic", "claude-haiku-4-5", 1_600),
        ("anthropic", "claude-opus-5-5", 2_900),  # 1,240 × 1,754 / 750
        ("openai", "gpt-4o", 1_105),  # 768 × 1,087: 2 × 3 tiles
        ("openai", "gpt-6-luna", 2_574),  # 39 × 55 × 1.2
    ],
)
def test_a_page_is_a_picture(provider: str, model: str, tokens: int):
    assert page_tokens(provider, model) == tokens


@pytest.mark.parametrize("size", [(2_048, 500), (1_200, 300), (1_700, 1_500), (400, 380)])
def test_an_image_on_its_side_counts_the_same(size: tuple[int, int]):
    models = [("openai", "gpt-4o"), ("openai", "gpt-5.2"), ("gemini", "gemini-2.5-pro"), ("compatible", "llava")]
    models += [("anthropic", "claude-haiku-4-5"), ("anthropic", "claude-opus-5-5")]
    for model in models:
        assert image_tokens(*model, *size) == image_tokens(*model, *reversed(size)), model


def test_a_model_nobody_knows_counts_high():
    assert image_tokens("compatible", "llava", 60, 40) == 1_601
    assert image_tokens("deepseek", "deepseek-flash", 2_048, 2_048) == 5_476  # 74 × 74
    assert image_tokens("compatible", "llava", 0, 0) == image_tokens("compatible", "llava", 2_048, 2_048)


def test_no_model_on_offer_takes_an_image_or_a_page_for_less_than_the_least_or_for_ten_times_more_than_another():
    models = [(fields["provider"], fields.get("provider_model", fields["key"])) for fields in SEED]
    for tokens in ([image_tokens(*model, 1_024, 1_024) for model in models], [page_tokens(*model) for model in models]):
        assert min(tokens) >= 258
        assert max(tokens) <= 6 * min(tokens)
