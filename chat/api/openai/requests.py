"""What a program sends to `/v1/chat/completions`, as OpenAI's API describes it, and what it means here.

https://platform.openai.com/docs/api-reference/chat/create

What we do not know is passed over, as programs send parameters of many servers; what would change the answer, and
cannot be done, is refused.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from struct import unpack
from typing import Annotated, Any, Literal, TypeAlias

import imagesize
import msgspec
from django.utils.translation import gettext as _
from msgspec import Meta, Raw, Struct

from chat.attachments.sniffing import HEAD_BYTES, detect_kind
from chat.errors import BadFile
from chat.llm.providers.base import AnswerOptions, File, JsonSchema, Message, Tool, ToolCall
from chat.llm.selection import AUTO
from chat.turns.asked import Asked
from core.errors import DomainError

MAX_IMAGES = 50
MAX_IMAGE_BYTES = 8_000_000
"""Of all images of one request; config/bodies.py takes as much in base64."""
MAX_PARTS = 20_000
"""Of all messages together, with the tools that they call: a few bytes make one, and each takes its time."""
MAX_SCHEMA_BYTES = 512 * 1024
"""Of the schemas of one request together, as JSON. Of larger ones millions of objects could be made, for which the
interpreter stands still: no thread of the process would go on for many seconds."""
MAX_DEPTH = 64
"""Of what is inside a tool's or an answer's schema."""
MAX_INTEGER = 2**63 - 1
"""In a schema: a larger one is none to whatever takes it on, MessagePack first."""
MAX_IMAGE_READS = 4_000
"""How often an image is read from to find its size. A JPEG may be cut into segments of four bytes, and each takes its
time."""

_DATA_URL = re.compile(r"data:[\w.+/;=-]{0,100};base64,", re.ASCII)


class BadParameter(DomainError):
    """A parameter that is missing, of a wrong kind, or that asks for what cannot be done here. `parameter` is its name,
    as OpenAI's errors say it."""

    code = "invalid"

    def __init__(self, sentence: str, *, parameter: str = "", code: str = "") -> None:
        super().__init__(sentence, code=code or None)
        self.parameter = parameter


# --- As it is sent ---------------------------------------------------------------------------------------------------


NOTHING = Raw(b"null")
"""What is not sent. The rest of what is raw here is read once it is known to be short."""


class _ImageUrl(Struct, gc=False):
    url: str


class _Text(Struct, tag_field="type", tag="text", gc=False):
    text: str


class _Image(Struct, tag_field="type", tag="image_url", gc=False):
    image_url: _ImageUrl


class _Refusal(Struct, tag_field="type", tag="refusal", gc=False):
    refusal: str


_Part: TypeAlias = _Text | _Image | _Refusal


class _CalledFunction(Struct, gc=False):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    arguments: str = ""


class _Call(Struct, gc=False):
    id: Annotated[str, Meta(min_length=1, max_length=200)]
    function: _CalledFunction
    type: Literal["function"] = "function"


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[_Call], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=200)] | None = None


class _Function(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
    description: str | None = None
    parameters: Raw = NOTHING
    strict: bool | None = None


class _Tool(Struct):
    function: _Function
    type: Literal["function"] = "function"


class _NamedFunction(Struct):
    name: str


class _ToolChoice(Struct):
    function: _NamedFunction
    type: Literal["function"] = "function"


class _Schema(Struct):
    name: str = ""
    description: str | None = None
    schema: Raw = NOTHING
    strict: bool | None = None


class _Format(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


Penalty = Annotated[float, Meta(ge=-2, le=2)]
Limit = Annotated[int, Meta(ge=1, le=10_000_000)]
Stop = Annotated[str, Meta(max_length=1_000)]


class CompletionRequest(Struct):
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=5_000)]
    model: Annotated[str, Meta(max_length=100)] = AUTO
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    reasoning_effort: Annotated[str, Meta(max_length=10)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=4)] | None = None
    response_format: _Format | None = None
    tools: Annotated[list[_Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: Raw = NOTHING
    modalities: list[str] | None = None
    store: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def max_output(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


_decode = msgspec.json.Decoder(CompletionRequest).decode
_PLACE = re.compile(r" - at `\$\.?(.*?)`$")


def read_request(body: bytes) -> CompletionRequest:
    """Return what a body asks for; raises BadParameter."""
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        sentence = str(error)
        place = _PLACE.search(sentence)
        parameter = place[1] if place else ""
        raise BadParameter(
            _("That is not valid: %(reason)s.") % {"reason": _PLACE.sub("", sentence)}, parameter=parameter
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(_("That is not valid JSON.")) from error


# --- As it is meant --------------------------------------------------------------------------------------------------


def asked_of(request: CompletionRequest) -> Asked:
    """Return the conversation and the options of a request; raises BadParameter, and BadFile for its images."""
    _check_possible(request)
    _check_counts(request)
    messages = tuple(_message_of(message, f"messages[{at}]") for at, message in enumerate(request.messages))
    if all(message.role == "system" for message in messages):
        raise BadParameter(_("Send at least one message of a user."), parameter="messages")
    images = [file for message in messages for file in message.files]
    if sum(len(image.data) for image in images) > MAX_IMAGE_BYTES:
        raise _too_many_images()
    return Asked(messages, _options_of(request))


def _check_counts(request: CompletionRequest) -> None:
    """Raise BadParameter for too many images, parts and calls of tools, before the first is looked at."""
    lists = [message.content for message in request.messages if isinstance(message.content, list)]
    calls = sum(len(message.tool_calls or ()) for message in request.messages)
    if calls + sum(map(len, lists)) > MAX_PARTS:
        raise BadParameter(_("Those are too many parts, or calls of tools."), parameter="messages")
    if sum(isinstance(part, _Image) for parts in lists for part in parts) > MAX_IMAGES:
        raise _too_many_images()


def _too_many_images() -> BadParameter:
    return BadParameter(_("Those are too many images, or too large together."), parameter="messages")


def _check_possible(request: CompletionRequest) -> None:
    refused = {
        "n": request.n not in (None, 1),
        "logprobs": bool(request.logprobs or request.top_logprobs),
        "functions": bytes(request.functions) not in (b"null", b"[]"),
        "modalities": bool(request.modalities) and request.modalities != ["text"],
    }
    for parameter, is_refused in refused.items():
        if is_refused:
            sentence = _("“%(parameter)s” is not supported here in this way.") % {"parameter": parameter}
            raise BadParameter(sentence, parameter=parameter, code="unsupported_parameter")


def _options_of(request: CompletionRequest) -> AnswerOptions:
    _check_schema_bytes(request)
    tools = tuple(_tool_of(tool.function, f"tools[{at}].function") for at, tool in enumerate(request.tools or ()))
    stop = request.stop if isinstance(request.stop, list) else [request.stop or ""]
    return AnswerOptions(
        temperature=request.temperature,
        top_p=request.top_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        stop=tuple(filter(None, stop)),
        json=_json_of(request.response_format),
        tools=tools,
        tool_choice=_tool_choice_of(request.tool_choice, tools),
        parallel_tool_calls=request.parallel_tool_calls if tools else None,
    )


def _check_schema_bytes(request: CompletionRequest) -> None:
    """Raise BadParameter for schemas that are too long together."""
    sizes = {"tools": sum(len(bytes(tool.function.parameters)) for tool in request.tools or ())}
    if request.response_format and request.response_format.json_schema:
        sizes["response_format.json_schema.schema"] = len(bytes(request.response_format.json_schema.schema))
    if sum(sizes.values()) > MAX_SCHEMA_BYTES:
        raise BadParameter(_("That is too long."), parameter=max(sizes, key=lambda place: sizes[place]))


def _tool_of(function: _Function, place: str) -> Tool:
    parameters = _schema_of(function.parameters, f"{place}.parameters")
    return Tool(function.name, function.description or "", parameters, function.strict)


def _json_of(wanted: _Format | None) -> JsonSchema | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonSchema()
    found = wanted.json_schema
    schema = _schema_of(found.schema, "response_format.json_schema.schema") if found else None
    if found is None or schema is None:
        raise BadParameter(_("Say which schema the answer has to follow."), parameter="response_format.json_schema")
    return JsonSchema(found.name, found.description or "", schema, found.strict)


def _tool_choice_of(choice: str | _ToolChoice | None, tools: Sequence[Tool]) -> str:
    if choice is None:
        return ""
    if not tools:
        if choice == "none":
            return ""
        raise BadParameter(_("There are no tools to choose from."), parameter="tool_choice")
    if isinstance(choice, str):
        return choice
    name = choice.function.name
    if all(tool.name != name for tool in tools):
        raise BadParameter(_("There is no such tool among “tools”."), parameter="tool_choice")
    return f"tool:{name}"


def _message_of(message: _Message, place: str) -> Message:
    role: Literal["system", "user", "assistant", "tool"] = "system" if message.role == "developer" else message.role
    text, files = _content_of(message, place)
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    if calls and role != "assistant":
        raise BadParameter(_("Only an assistant calls tools."), parameter=f"{place}.tool_calls")
    if role == "tool" and not message.tool_call_id:
        raise BadParameter(_("Say which call of a tool this answers."), parameter=f"{place}.tool_call_id")
    if role in ("system", "user") and not text and not files:
        raise BadParameter(_("This message is empty."), parameter=f"{place}.content")
    if files and role != "user":
        raise BadParameter(_("Only a user shows images."), parameter=f"{place}.content")
    return Message(role, text, files, calls, (message.tool_call_id or "") if role == "tool" else "")


def _content_of(message: _Message, place: str) -> tuple[str, tuple[File, ...]]:
    """Return the text, parts of it one below the other, and the images."""
    if not isinstance(message.content, list):
        return (message.content or message.refusal or "").replace("\0", ""), ()
    texts, files = [], []
    for at, part in enumerate(message.content):
        match part:
            case _Text():
                texts.append(part.text)
            case _Refusal():
                texts.append(part.refusal)
            case _Image():
                files.append(_image_of(part.image_url.url, f"{place}.content[{at}].image_url.url"))
    return "\n".join(texts).replace("\0", ""), tuple(files)


def _image_of(url: str, place: str) -> File:
    found = _DATA_URL.match(url)
    if found is None:
        sentence = _("Send an image as it is, as a “data:” URL in base64. We do not open addresses of other sites.")
        raise BadParameter(sentence, parameter=place, code="image_not_sent")
    try:
        data = b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadParameter(_("That is not valid base64."), parameter=place) from error
    kind, media_type = detect_kind(data[:HEAD_BYTES], "")
    if kind != "image":
        raise BadFile("file_type", status=400)
    return File("image", media_type, "", data, *_size_of(data, place))


class _ReadSeldom(BytesIO):
    """A file that is read from MAX_IMAGE_READS times at most."""

    _reads_left = MAX_IMAGE_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ValueError
        return super().read(size)


def _size_of(data: bytes, place: str) -> tuple[int, int]:
    """Return width and height in pixels; raises BadParameter where they cannot be found: what an image costs goes by
    them, and too little would be reserved."""
    try:
        width, height = imagesize.get(_ReadSeldom(data))
        if data.startswith(b"GIF"):
            width, height = map(max, (width, height), _first_frame(data))
    except Exception as error:  # it raises what its parsers do
        raise _no_size(place) from error
    if width <= 0 or height <= 0:
        raise _no_size(place)
    return width, height


def _first_frame(data: bytes) -> tuple[int, int]:
    """Return where a GIF's first picture ends, to the right and below: whoever opens it takes a screen that it says to
    be smaller to be as large as that (https://www.w3.org/Graphics/GIF/spec-gif89a.txt). Raises what its parts do that
    are not there."""
    file = _ReadSeldom(data)
    file.seek(10)
    colours = file.read(1)[0]
    file.seek(13 + (6 << (colours & 7) if colours & 0x80 else 0))
    while (block := file.read(1)) == b"!":  # an extension: its label, and parts that say their length
        file.read(1)
        while length := file.read(1)[0]:
            file.seek(length, 1)
    if block != b",":
        raise ValueError
    left, top, width, height = unpack("<4H", file.read(8))
    return left + width, top + height


def _no_size(place: str) -> BadParameter:
    return BadParameter(_("We cannot find how large this image is. Save it anew, and send that."), parameter=place)


def _schema_of(raw: Raw, place: str) -> dict[str, Any] | None:
    """Return the schema; raises BadParameter for one that whoever takes it on may break of."""
    try:
        schema: dict[str, Any] | None = _decode_schema(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(_("That is not valid JSON."), parameter=place) from error
    _check_values(schema, place)
    return schema


_decode_schema = msgspec.json.Decoder(dict[str, Any] | None).decode


def _check_values(schema: Any, place: str) -> None:
    """Raise BadParameter for a schema that is nested too deeply, or has a number that is too large."""
    level = [schema]
    for _depth in range(MAX_DEPTH):
        if any(isinstance(one, int) and abs(one) > MAX_INTEGER for one in level):
            raise BadParameter(_("A number in it is too large."), parameter=place)
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [value for one in inner for value in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return
    raise BadParameter(_("That is nested too deeply."), parameter=place)
