"""Shapes of the chat API."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypedDict, cast
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from accounts.keys import KeyTerms
from accounts.models import ApiKey
from accounts.origins import BAD_ORIGIN, parse_origins
from billing.entitlements import Entitlements, credits_of
from chat.attachments.binding import decode_attached
from chat.errors import file_sentence_for
from chat.llm.catalog import Candidate, list_offered
from chat.llm.pricing import rates_with_markup
from chat.llm.selection import AUTO
from chat.models import Attachment
from chat.shown.costs import PriceOfTurnBody, UsageOfTurnBody, first_token_ms, price_details, usage_of
from chat.shown.finding import Found
from chat.shown.links import link_of
from chat.shown.sentences import charge_sentence, error_sentence
from history.excerpts import Excerpt, Letters, excerpt_of
from history.models import Conversation, SharedPage, Turn
from history.search import Hit

EXCERPT_LENGTH = 280
"""Characters of an excerpt, about."""
MOST_CREDITS = 1_000_000_000
"""A limit of a key beyond this is none."""


class ReasonBody(TypedDict):
    """Why something went wrong: a code for programs, a sentence for people."""

    code: str
    detail: str


class AttachedFileBody(TypedDict):
    """A file of a question. `pages` is of PDFs, else 0."""

    id: UUID
    kind: str
    name: str
    media_type: str
    size: int
    pages: int


class FoundConversationBody(TypedDict):
    """The conversation that something was found in."""

    id: UUID
    title: str
    is_archived: bool
    updated_at: dt.datetime


class PieceBody(TypedDict):
    """A piece of an excerpt: what was searched for, or what is around it."""

    text: str
    is_match: bool


class ExcerptsBody(TypedDict):
    question: list[PieceBody]
    answer: list[PieceBody]


class TicketBody(TypedDict):
    """What opens one socket, within `expires_in` seconds."""

    ticket: str
    expires_in: int


def check_future(value: dt.datetime | None) -> dt.datetime | None:
    """Return a moment that is to come, or None; raises ValidationError."""
    if value is not None and value <= timezone.now():
        raise serializers.ValidationError(_("That is over already."))
    return value


class TurnSerializer(serializers.ModelSerializer[Turn]):
    """A turn. `effort` is how hard the model was told to think. `instead_of` is the model that failed before `model`
    answered in its place, or empty; `route` is why Auto chose as it did, or empty. `usage` and `cost_micros` are null
    while it is open, `error` is `{"code", "detail"}` or null. `from_cache` is whether the answer was there before: then
    `cost_micros` is 0 and `usage` null.

    `cost_detail` says what was paid for where there is no answer to read, and why it was more than was announced; else
    it is empty.

    `first_token_ms` is from the question to the first token, null without one; `reasoning_ms` how long it thought.
    `price` is by which prices `cost_micros` was reckoned, null where it was not: micro-US-dollars a million tokens of
    `input`, `output`, `cache_read` and `cache_write`, which hold for inputs longer than `above` tokens;
    `markup_percent`, added to `provider_micros`; `as_of`, the day of the list prices, empty for the operator's own.
    """

    model = serializers.SerializerMethodField()
    from_cache = serializers.BooleanField(source="is_from_cache", read_only=True)
    usage = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    first_token_ms = serializers.SerializerMethodField()
    price = serializers.SerializerMethodField()
    cost_detail = serializers.SerializerMethodField()
    attachments = serializers.SerializerMethodField()

    class Meta:
        model = Turn
        fields: tuple[str, ...] = (
            *("id", "conversation_id", "parent_id", "beside_id", "seq"),
            *("model", "effort", "provider", "instead_of", "route", "status"),
            *("question", "attachments", "answer"),
            *("reasoning", "from_cache", "usage", "cost_micros", "cost_detail", "price"),
            *("first_token_ms", "reasoning_ms"),
            *("finish_reason", "error", "trimmed_turns"),
            *("created_at", "completed_at"),
        )

    def get_model(self, turn: Turn) -> str:
        return turn.model or turn.requested_model

    def get_usage(self, turn: Turn) -> UsageOfTurnBody | None:
        return usage_of(turn)

    def get_price(self, turn: Turn) -> PriceOfTurnBody | None:
        return price_details(turn)

    def get_cost_detail(self, turn: Turn) -> str:
        return charge_sentence(turn)

    def get_first_token_ms(self, turn: Turn) -> int | None:
        return first_token_ms(turn)

    def get_attachments(self, turn: Turn) -> list[AttachedFileBody]:
        return [
            {
                "id": file.id,
                "kind": file.kind,
                "name": file.name,
                "media_type": file.media_type,
                "size": file.size,
                "pages": file.pages,
            }
            for file in decode_attached(turn.attachments)
        ]

    def get_error(self, turn: Turn) -> ReasonBody | None:
        return {"code": turn.error, "detail": error_sentence(turn)} if turn.error else None


class FoundTurnSerializer(TurnSerializer):
    """A turn that was found, with its conversation, and excerpts in which the words are marked. `hits` of the context
    are what was found, by the turns' ids, `words` what was searched for, `letters` as many as are looked through."""

    conversation = serializers.SerializerMethodField()
    excerpts = serializers.SerializerMethodField()

    class Meta(TurnSerializer.Meta):
        fields = (*TurnSerializer.Meta.fields, "conversation", "excerpts")

    def get_conversation(self, turn: Turn) -> FoundConversationBody:
        return found_conversation(self.context["hits"][turn.pk].conversation)

    def get_excerpts(self, turn: Turn) -> ExcerptsBody:
        words, letters = self.context["words"], self.context["letters"]
        return {
            "question": _excerpt(excerpt_of(turn.question, words, EXCERPT_LENGTH, letters)),
            "answer": _excerpt(excerpt_of(turn.answer, words, EXCERPT_LENGTH, letters)),
        }


class FoundSerializer(serializers.Serializer[Found]):
    """What was found: turns, the newest first; on the first page `conversations` by their titles too, and turns that
    are `similar`, where the site searches by meaning. `not_filters` are words with a colon that are none."""

    results = serializers.SerializerMethodField()
    next = serializers.CharField(source="turns.next", allow_null=True)
    conversations = serializers.SerializerMethodField()
    similar = serializers.SerializerMethodField()
    not_filters = serializers.ListField(source="query.unknown", child=serializers.CharField())

    def get_results(self, found: Found) -> list[FoundTurnSerializer]:
        return _found_turns(found.turns.rows, found.query.words)

    def get_conversations(self, found: Found) -> list[FoundConversationBody]:
        return [found_conversation(row) for row in found.titles.rows]

    def get_similar(self, found: Found) -> list[FoundTurnSerializer]:
        return _found_turns(found.similar, ())


def found_conversation(conversation: Conversation) -> FoundConversationBody:
    return {
        "id": conversation.pk,
        "title": conversation.title,
        "is_archived": bool(conversation.is_archived),
        "updated_at": conversation.updated_at,
    }


def _found_turns(hits: list[Hit], words: tuple[str, ...]) -> list[FoundTurnSerializer]:
    """Return what FoundTurnSerializer writes of them."""
    context = {"hits": {hit.turn.pk: hit for hit in hits}, "words": words, "letters": Letters()}
    written = FoundTurnSerializer([hit.turn for hit in hits], many=True, context=context).data
    return cast("list[FoundTurnSerializer]", written)


def _excerpt(excerpt: Excerpt) -> list[PieceBody]:
    return [{"text": piece.text, "is_match": piece.is_match} for piece in excerpt.pieces]


class AskSerializer(serializers.Serializer[Any]):
    """A question. `parent_id` absent continues the chosen branch, null begins a new one at the root. `effort` is one of
    the model's `efforts`. `beside_id` is a turn whose question another model is to answer beside it: then `text`,
    `parent_id` and `attachments` are that turn's. `folder_id` is where a new conversation begins."""

    text = serializers.CharField(required=False, trim_whitespace=False, allow_blank=True, max_length=1_000_000)
    model = serializers.CharField(required=False, allow_blank=True, default="", max_length=100)
    effort = serializers.CharField(required=False, allow_blank=True, default="", max_length=20)
    parent_id = serializers.UUIDField(required=False, allow_null=True)
    beside_id = serializers.UUIDField(required=False, allow_null=True)
    turn_id = serializers.UUIDField(required=False)
    stream = serializers.BooleanField(required=False, default=False)
    attachments = serializers.ListField(child=serializers.UUIDField(), required=False, default=list, max_length=100)
    folder_id = serializers.UUIDField(required=False, allow_null=True, default=None)

    def validate(self, fields: dict[str, Any]) -> dict[str, Any]:
        if "text" not in fields and fields.get("beside_id") is None:
            raise serializers.ValidationError({"text": self.fields["text"].error_messages["required"]})
        return fields


class NewShareSerializer(serializers.Serializer[Any]):
    """What is shared, and with whom. Without `until_turn_id` it is the branch that is shown, to its end."""

    id = serializers.UUIDField(required=False)
    until_turn_id = serializers.UUIDField(required=False, allow_null=True)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    members_only = serializers.BooleanField(required=False, default=False)
    show_name = serializers.BooleanField(required=False, default=False)

    def validate_expires_at(self, value: dt.datetime | None) -> dt.datetime | None:
        return check_future(value)


class ShareSerializer(serializers.ModelSerializer[SharedPage]):
    """A link to a conversation as it was at `updated_at`. `author` is the name the page shows, or empty;
    `takedown_reason` is why the operators took it down, where `taken_down_at` is not null."""

    link = serializers.SerializerMethodField()
    until_turn_id = serializers.UUIDField(source="until_id", allow_null=True)
    members_only = serializers.SerializerMethodField()

    class Meta:
        model = SharedPage
        fields = (
            *("id", "link", "conversation_id", "until_turn_id", "title", "turn_count", "author", "members_only"),
            *("expires_at", "created_at", "updated_at", "taken_down_at", "takedown_reason"),
        )

    def get_link(self, share: SharedPage) -> str:
        return link_of(share)

    def get_members_only(self, share: SharedPage) -> bool:
        return bool(share.is_for_members)


class AttachmentSerializer(serializers.ModelSerializer[Attachment]):
    """A file. `status` is `uploaded`, `processing`, `ready` or `refused`, then `error` is `{"code", "detail"}`; `pages`
    is of PDFs, `width` and `height` are of images."""

    error = serializers.SerializerMethodField()

    class Meta:
        model = Attachment
        fields = (
            *("id", "kind", "name", "media_type", "size", "pages", "width", "height"),
            *("status", "error", "created_at"),
        )

    def get_error(self, attachment: Attachment) -> ReasonBody | None:
        return {"code": attachment.error, "detail": file_sentence_for(attachment.error)} if attachment.error else None


class ModelSerializer(serializers.Serializer[Candidate]):
    """A model on offer. Prices are what you are charged, in micro-US-dollars a million tokens (of a short prompt: some
    models cost more per token above a length); `included` is whether your plan has it.

    `efforts` are how hard it can be told to think, from least to most; a model that does not read PDFs gets their text.

    `auto` is none of them: it chooses one for each question, and can what one of your plan's can. It has no provider,
    tier and prices of its own.
    """

    id = serializers.CharField(source="model.key")
    label = serializers.CharField(source="model.label")  # type: ignore[assignment]  # a field here, an argument there
    remark = serializers.CharField(source="model.remark")
    provider = serializers.CharField(source="provider.name")
    tier = serializers.CharField(source="model.tier")
    context_window = serializers.IntegerField(source="model.context_window")
    max_output = serializers.IntegerField(source="model.max_output")
    input_price = serializers.SerializerMethodField()
    output_price = serializers.SerializerMethodField()
    sees_images = serializers.BooleanField(source="model.sees_images")
    reads_pdfs = serializers.BooleanField(source="model.reads_pdfs")
    reasons = serializers.BooleanField(source="model.reasons")
    efforts = serializers.ListField(source="model.effort_levels", child=serializers.CharField())
    included = serializers.SerializerMethodField()

    def get_input_price(self, candidate: Candidate) -> int | None:
        return rates_with_markup(candidate.model)[0].input

    def get_output_price(self, candidate: Candidate) -> int | None:
        return rates_with_markup(candidate.model)[0].output

    def get_included(self, candidate: Candidate) -> bool:
        return bool(self.context["allowed"].includes_tier(candidate.model.tier))


def auto_model(found: Sequence[Candidate], allowed: Entitlements) -> dict[str, Any]:
    """Return `auto` in the shape of a model, by those it may choose from."""
    models = [candidate.model for candidate in found if allowed.includes_tier(candidate.model.tier)]
    return {
        "id": AUTO,
        "label": "Auto",
        "remark": "",
        "provider": "",
        "tier": "",
        "context_window": max((model.context_window for model in models), default=0),
        "max_output": max((model.max_output for model in models), default=0),
        "input_price": None,
        "output_price": None,
        "sees_images": any(model.sees_images for model in models),
        "reads_pdfs": any(model.reads_pdfs for model in models),
        "reasons": any(model.reasons for model in models),
        "efforts": [],
        "included": bool(models),
    }


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key, without the key itself: `prefix` is its beginning. Empty `models` are all that the plan has; without
    `monthly_credits` it has no limit of its own. `used` are credits of this month; `last_used_at` is right to the
    minute. `keep_conversations`: what it asks over `/v1` is kept in your history."""

    scopes = serializers.ListField(child=serializers.ChoiceField(ApiKey.Scope.choices))
    models = serializers.ListField(source="model_ids", child=serializers.CharField())
    used = serializers.SerializerMethodField()
    origins = serializers.SerializerMethodField()
    keep_conversations = serializers.SerializerMethodField()

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = (
            *("id", "name", "prefix", "scopes", "models", "monthly_credits", "used", "requests_per_minute", "origins"),
            *("keep_conversations", "expires_at", "created_at", "last_used_at"),
        )

    def get_origins(self, key: ApiKey) -> list[str]:
        return (key.origins or "").split()

    def get_keep_conversations(self, key: ApiKey) -> bool:
        return bool(key.keeps_conversations)

    def get_used(self, key: ApiKey) -> float:
        return credits_of(self.context["used_micros"].get(str(key.pk), 0))


class MadeKeySerializer(ApiKeySerializer):
    """A new API key, with the key itself, which is shown this once."""

    key = serializers.SerializerMethodField()

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "key")

    def get_key(self, _key: ApiKey) -> str:
        return str(self.context["secret"])


class NewKeySerializer(serializers.Serializer[Any]):
    """What a new key may do."""

    id = serializers.UUIDField(required=False)
    name = serializers.CharField(max_length=100)
    scopes = serializers.ListField(child=serializers.ChoiceField(ApiKey.Scope.choices), min_length=1, max_length=10)
    models = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, default=list, max_length=100
    )
    monthly_credits = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=MOST_CREDITS
    )
    requests_per_minute = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=100_000
    )
    origins = serializers.ListField(child=serializers.CharField(max_length=200), required=False, default=list)
    keep_conversations = serializers.BooleanField(required=False, default=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)

    def validate_origins(self, value: list[str]) -> tuple[str, ...]:
        try:
            return parse_origins(value)
        except ValueError as error:
            raise serializers.ValidationError(BAD_ORIGIN) from error

    def validate_expires_at(self, value: dt.datetime | None) -> dt.datetime | None:
        return check_future(value)

    def validate_models(self, value: list[str]) -> list[str]:
        if not set(value) <= {candidate.model.key for candidate in list_offered()}:
            raise serializers.ValidationError(_("That model is not offered. Please choose another."))
        return value

    def terms(self) -> KeyTerms:
        """Return what was chosen, of valid input."""
        chosen = self.validated_data
        return KeyTerms(
            name=chosen["name"],
            scopes=tuple(scope for scope in ApiKey.Scope.values if scope in chosen["scopes"]),
            model_ids=tuple(dict.fromkeys(chosen["models"])),
            monthly_credits=chosen["monthly_credits"],
            requests_per_minute=chosen["requests_per_minute"],
            origins=chosen["origins"],
            keeps_conversations=chosen["keep_conversations"],
            expires_at=chosen["expires_at"],
        )


class ForkSerializer(serializers.Serializer[Any]):
    """A client may choose the id, so that it can be sent again without making two."""

    conversation_id = serializers.UUIDField(required=False)
