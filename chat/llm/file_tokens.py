"""How many tokens a model makes of an image and of a page of a PDF, as its provider counts them. Pure functions.

As of November 2026, by these pages, and by what others quote of them and have measured:
https://developers.openai.com/api/docs/guides/images-vision
https://platform.claude.com/docs/en/build-with-claude/vision and …/pdf-support
https://ai.google.dev/gemini-api/docs/media-resolution and …/tokens

What no provider has published is taken high, as a reservation must be: models that no family names, and how large the
picture is that is made of a page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

MAX_SIDE_PIXELS = 2_048
"""No image is sent larger (chat/attachments/extract.py); one whose size is not known is taken to be that large."""
PAGE_PIXELS = (1_240, 1_754)
"""A page of A4 with 150 dots an inch."""

ImageTokens = Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class _Family:
    """Models whose ids begin with one of `prefixes`. `page_tokens` None: a page is an image of PAGE_PIXELS."""

    provider: str
    prefixes: tuple[str, ...]
    image_tokens: ImageTokens
    page_tokens: int | None = None


def image_tokens(provider: str, model: str, width: int, height: int) -> int:
    """Return the tokens of an image; `model` is the provider's id. A size of zero is unknown."""
    return _family_of(provider, model).image_tokens(width or MAX_SIDE_PIXELS, height or MAX_SIDE_PIXELS)


def page_tokens(provider: str, model: str) -> int:
    """Return the tokens of a page of a PDF as a picture; those of its text come on top."""
    family = _family_of(provider, model)
    return family.image_tokens(*PAGE_PIXELS) if family.page_tokens is None else family.page_tokens


def _family_of(provider: str, model: str) -> _Family:
    for family in _FAMILIES:
        if provider == family.provider and model.startswith(family.prefixes):
            return family
    return _UNKNOWN


def _openai_patches(width: int, height: int, *, percent: int, most: int = 30_000) -> int:
    """Count patches of 32 pixels; an image that has more than `most` is made smaller until it fits."""
    patches = min(most, ceil(width / 32) * ceil(height / 32))
    return -(-patches * percent // 100)


def _openai_tiles(width: int, height: int, *, base: int, tile: int) -> int:
    """Count tiles of 512 pixels, once the image fits into a square of 2,048 and its shorter side is 768."""
    scale = 768 / min(width, height)
    scale = min(scale, MAX_SIDE_PIXELS / max(width, height))
    return base + tile * ceil(round(width * scale, 3) / 512) * ceil(round(height * scale, 3) / 512)


def _claude_image(width: int, height: int, *, side: int, most: int) -> int:
    """Count patches of 28 pixels, or a token for 750 pixels, as older pages of Anthropic's say: whichever is more. An
    image is made smaller until its longer side and its tokens fit."""
    scale = min(1, side / max(width, height))
    width, height = round(width * scale), round(height * scale)
    return min(most, max(ceil(width / 28) * ceil(height / 28), ceil(width * height / 750)))


def _gemini_tiles(width: int, height: int) -> int:
    """Count the tiles an image is cut into, of 258 tokens each; a small one is a single tile."""
    if max(width, height) <= 384:
        return 258
    side = min(768, max(256, int(min(width, height) / 1.5)))
    return 258 * ceil(width / side) * ceil(height / side)


def _gemini_fixed(width: int, height: int) -> int:
    """Return what the default resolution gives to an image of any size."""
    return 1_120


def _gemini_any(width: int, height: int) -> int:
    return max(_gemini_tiles(width, height), _gemini_fixed(width, height))


def _unknown_image(width: int, height: int) -> int:
    """Count patches of 28 pixels (Qwen), and no fewer tokens than models have that make as many of every image."""
    return max(1_601, ceil(width / 28) * ceil(height / 28))


_UNKNOWN = _Family("", (), _unknown_image)
_FAMILIES = (  # the first that fits
    _Family(
        "openai",
        ("gpt-5.4-mini", "gpt-5.1-codex-mini", "gpt-5-mini"),
        partial(_openai_patches, percent=162, most=1_536),
    ),
    _Family("openai", ("gpt-5.4-nano", "gpt-5-nano"), partial(_openai_patches, percent=246, most=1_536)),
    _Family("openai", ("gpt-5.4",), partial(_openai_patches, percent=120, most=2_500)),
    _Family("openai", ("gpt-5.1", "gpt-5.2", "gpt-5.3"), partial(_openai_patches, percent=120, most=1_536)),
    _Family("openai", ("gpt-5.", "gpt-6"), partial(_openai_patches, percent=120)),  # 5.5, 5.6, 6
    _Family("openai", ("gpt-5",), partial(_openai_tiles, base=70, tile=140)),
    _Family("openai", ("gpt-4.1-mini",), partial(_openai_patches, percent=162, most=1_536)),
    _Family("openai", ("gpt-4.1-nano",), partial(_openai_patches, percent=246, most=1_536)),
    _Family("openai", ("o4-mini",), partial(_openai_patches, percent=172, most=1_536)),
    _Family("openai", ("gpt-4o-mini",), partial(_openai_tiles, base=2_833, tile=5_667)),
    _Family("openai", ("gpt-4o", "gpt-4.1", "gpt-4.5"), partial(_openai_tiles, base=85, tile=170)),
    _Family("openai", ("o1", "o3"), partial(_openai_tiles, base=75, tile=150)),
    _Family("openai", ("",), partial(_openai_patches, percent=246)),
    _Family(
        "anthropic",
        (
            *("claude-3", "claude-haiku-4", "claude-sonnet-4", "claude-opus-4-2"),  # …-4-20250514
            *("claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-5", "claude-opus-4-6"),
        ),
        partial(_claude_image, side=1_568, most=1_600),
    ),
    _Family("anthropic", ("",), partial(_claude_image, side=2_576, most=4_784)),
    # Of a scan, older models read the text too, about a thousand tokens a page.
    _Family("gemini", ("gemini-1", "gemini-2"), _gemini_tiles, page_tokens=1_250),
    _Family("gemini", ("gemini-3", "gemini-4"), _gemini_fixed, page_tokens=560),
    _Family("gemini", ("",), _gemini_any, page_tokens=1_250),
)
