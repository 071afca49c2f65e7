"""What a program says of the answer it wants, in each format: tools and their calls, JSON, sampling."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk
from chat.llm.providers.base import AnswerOptions, JsonSchema, Message, Tool, ToolCall
from chat.llm.providers.closed_schemas import closed_schema
from chat.llm.providers.http import close_session
from chat.llm.providers.tool_calls import JSON_INSTRUCTION, arguments_of, with_acceptable_ids
from chat.provider_registry import KNOWN_PROVIDERS
from tests.chat.dialects import ASKED, CHAT, DEEPSEEK, DIALECTS, FAMILIES, GEMINI, MESSAGES, Dialect
from tests.chat.test_dialects import PNG, as_spelt_by_us, body_of

WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    is_strict=True,
)
NOW = Tool("now")
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}

CALLED = (
    Message("system", "Be kind."),
    Message("user", "¿Qué tiempo hace?"),
    Message(
        "assistant",
        "",
        tool_calls=(
            ToolCall("call_1", "get_weather", '{"city":"Quito"}'),
            ToolCall("toolu_2", "now", ""),
        ),
    ),
    Message("system", "Be short."),
    Message("tool", '{"sky": "clear"}', tool_call_id="call_1"),
    Message("tool", "", tool_call_id="toolu_2"),
    Message("user", "¿Y bien?"),
)
ALL_OPTIONS = AnswerOptions(
    temperature=0.5,
    top_p=0.9,
    presence_penalty=1.0,
    frequency_penalty=-1.0,
    seed=2**40 + 7,
    stop=("\n\n", "END"),
    json=JsonSchema("person", "Somebody.", SCHEMA, is_strict=True),
    tools=(WEATHER, NOW),
    tool_choice="auto",
    parallel_tool_calls=False,
)
OPTIONS = {
    "everything": ALL_OPTIONS,
    "a tool by name": AnswerOptions(tools=(WEATHER, NOW), tool_choice="tool:now"),
    "some tool": AnswerOptions(tools=(WEATHER,), tool_choice="required", parallel_tool_calls=True),
    "no tool": AnswerOptions(tools=(WEATHER,), tool_choice="none", parallel_tool_calls=False),
    "tools alone": AnswerOptions(tools=(WEATHER, NOW)),
    "any object": AnswerOptions(json=JsonSchema()),
    "nothing": AnswerOptions(tool_choice="auto", parallel_tool_calls=True),
}
BODIES = {
    "openai_chat": openai_chat.body_of,
    "anthropic_messages": anthropic_messages.body_of,
    "gemini": gemini.body_of,
}


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    yield
    await close_session()
    await sdk.close_clients()


def sent(dialect: Dialect, *, slug: str = "", **fields: Any) -> dict[str, Any]:
    """Return what the adapter sends, as a known provider with this slug is sent it."""
    request = dialect.request("", **fields)
    if slug:
        parameters = KNOWN_PROVIDERS[slug].parameters
        request = replace(request, provider=replace(request.provider, parameters=parameters))
    body: dict[str, Any] = BODIES[dialect.adapter](request)
    return body


# --- Conversations with tools ----------------------------------------------------------------------------------------


def test_openai_gets_calls_and_results_as_messages():
    *before, first, second, _user = sent(CHAT, messages=CALLED)["messages"]
    assert before[2] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Quito"}'},
            },
            {"id": "toolu_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }
    assert before[3] == {"role": "system", "content": "Be short."}
    assert first == {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "clear"}'}
    assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": ""}


def test_anthropic_gets_all_results_in_one_turn_with_what_follows_them():
    body = sent(MESSAGES, messages=CALLED, options=AnswerOptions(tools=(WEATHER, NOW)))
    assert body["system"] == "Be kind.\n\nBe short."
    assert body["messages"] == [
        {"role": "user", "content": "¿Qué tiempo hace?"},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Quito"}},
                {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": '{"sky": "clear"}'},
                {"type": "tool_result", "tool_use_id": "toolu_2"},
                {"type": "text", "text": "¿Y bien?"},
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "get_weather", "description": WEATHER.description, "input_schema": WEATHER.parameters},
        {"name": "now", "input_schema": {"type": "object"}},
    ]
    assert body["thinking"]["type"] == "adaptive"  # it needs no thoughts back, and newer models cannot go without
    assert "tool_choice" not in body


def test_gemini_gets_all_results_in_one_content_and_finds_their_names():
    assert sent(GEMINI, messages=CALLED, model="gemini-3-pro")["contents"] == [
        {"role": "user", "parts": [{"text": "¿Qué tiempo hace?"}]},
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "call_1", "name": "get_weather", "args": {"city": "Quito"}},
                    "thoughtSignature": gemini.NO_SIGNATURE,
                },
                {"functionCall": {"id": "toolu_2", "name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "call_1",
                        "name": "get_weather",
                        "response": {"output": '{"sky": "clear"}'},
                    }
                },
                {"functionResponse": {"id": "toolu_2", "name": "now", "response": {"output": ""}}},
            ],
        },
        {"role": "user", "parts": [{"text": "¿Y bien?"}]},
    ]


def test_a_signature_is_sent_to_models_that_ask_for_one():
    for model, is_signed in (("gemini-2.5-flash", False), ("gemini-3.8-flash", True), ("gemini-flash-latest", True)):
        body = sent(GEMINI, messages=CALLED, model=model)
        assert (gemini.NO_SIGNATURE in json.dumps(body)) is is_signed


def test_text_before_a_call_is_sent():
    call = ToolCall("call_1", "now", "{}")
    messages = (
        ASKED[1],
        Message("assistant", "A moment.", tool_calls=(call,)),
        Message("tool", "9", tool_call_id="call_1"),
    )
    assert sent(CHAT, messages=messages)["messages"][1]["content"] == "A moment."
    assert sent(MESSAGES, messages=messages)["messages"][1]["content"][0] == {"type": "text", "text": "A moment."}
    assert sent(GEMINI, messages=messages)["contents"][1]["parts"][0] == {"text": "A moment."}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", {}),
        ("  ", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a":', {"arguments": '{"a":'}),
        ("[1]", {"arguments": "[1]"}),
        ('"x"', {"arguments": '"x"'}),
        ('{"a": NaN}', {"arguments": '{"a": NaN}'}),
        ('{"a": "\\ud83d"}', {"arguments": '{"a": "\\ud83d"}'}),
        ("[" * 9_000, {"arguments": "[" * 9_000}),
    ],
    ids=["empty", "blank", "object", "cut", "list", "word", "nan", "half", "deep"],
)
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments: str, shown: dict[str, Any]):
    call = ToolCall("call_1", "now", arguments)
    assert arguments_of(call) == shown
    [said] = sent(CHAT, messages=(Message("assistant", "", tool_calls=(call,)),))["messages"][0]["tool_calls"]
    assert json.loads(said["function"]["arguments"]) == shown


# --- Ids -------------------------------------------------------------------------------------------------------------


def calls(*ids: str) -> Message:
    return Message("assistant", "", tool_calls=tuple(ToolCall(one, "now", "{}") for one in ids))


def result(call_id: str) -> Message:
    return Message("tool", call_id, tool_call_id=call_id)


def ids_of(messages: Iterable[Message]) -> list[tuple[str, ...]]:
    return [(*(call.id for call in one.tool_calls), *filter(None, [one.tool_call_id])) for one in messages]


def test_ids_that_everybody_takes_stay():
    messages = (calls("call_a-1", "toolu_B"), result("call_a-1"), result("toolu_B"))
    assert with_acceptable_ids(messages) == messages


@pytest.mark.parametrize("odd", ["functions.now:0", "x" * 41, "ñ", "", "\ud83d"], ids=ascii)
def test_other_ids_are_replaced_alike_in_calls_and_results(odd: str):
    messages = with_acceptable_ids((calls(odd, "b"), result("b"), result(odd)))
    [(first, second), answered_second, (answered,)] = ids_of(messages)
    assert first == answered
    assert first.startswith("call_")
    assert len(first) <= 40
    assert ((second,), second) == (answered_second, "b")
    assert with_acceptable_ids((calls(odd, "b"), result("b"), result(odd))) == messages  # what was read is cached


def test_ids_that_come_again_are_told_apart():
    """Some servers count from zero in each answer."""
    messages = (
        calls("0", "1"),
        result("1"),
        result("0"),
        calls("0"),
        result("0"),
        calls("2", "2"),
        result("2"),
        result("2"),
    )
    [first, one, zero, again, answered, twins, left, right] = ids_of(with_acceptable_ids(messages))
    assert (first, one, zero) == (("0", "1"), ("1",), ("0",))
    assert again == answered != zero
    assert (left, right) == ((twins[0],), (twins[1],))
    assert len({*first, *again, *twins}) == 5


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
def test_each_format_is_sent_ids_it_takes(dialect: Dialect):
    assert "functions.now:0" not in json.dumps(
        sent(dialect, messages=(ASKED[1], calls("functions.now:0"), replace(result("functions.now:0"), text="9")))
    )


# --- The types of the SDKs -------------------------------------------------------------------------------------------


def listed(value: Any) -> Any:
    """Return a value with the lists that pydantic reads only when they are asked for."""
    if isinstance(value, dict):
        return {name: listed(part) for name, part in value.items()}
    return [*map(listed, value)] if not isinstance(value, str) and isinstance(value, Iterable) else value


def check_by_openai(bodies: Iterable[dict[str, Any]]) -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    check = TypeAdapter(CompletionCreateParamsStreaming).validate_python
    for body in bodies:
        known = {name: value for name, value in body.items() if name not in openai_chat.UNKNOWN_TO_SDK}
        assert listed(check(known)) == known


def check_by_anthropic(bodies: Iterable[dict[str, Any]]) -> None:
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    check = TypeAdapter(MessageCreateParamsStreaming).validate_python
    for body in bodies:
        assert listed(check(body)) == body


def check_by_google(bodies: Iterable[dict[str, Any]]) -> None:
    from google.genai import types

    for body in bodies:
        for content in body["contents"]:
            types.Content.model_validate_json(json.dumps(content))
        around = {name: body[name] for name in ("tools", "toolConfig", "systemInstruction") if name in body}
        types.GenerateContentConfig.model_validate_json(json.dumps(body["generationConfig"] | around))


CHECKS = {"openai_chat": check_by_openai, "anthropic_messages": check_by_anthropic, "gemini": check_by_google}
WITH_A_PICTURE = (*CALLED, Message("assistant", "Clear."), Message("user", "", (PNG,)))


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
def test_bodies_have_the_types_of_the_sdk(dialect: Dialect):
    """And no field that it does not know."""
    slug = {"openai_chat": "openai"}.get(dialect.name, "")
    CHECKS[dialect.name](
        sent(dialect, slug=slug, messages=messages, options=options, model="gemini-3-pro", reasons=reasons)
        for messages in (ASKED, WITH_A_PICTURE)
        for options in OPTIONS.values()
        for reasons in (True, False)
    )


async def test_both_transports_send_the_same(dialect: Dialect):
    for options in OPTIONS.values():
        fields = {"messages": WITH_A_PICTURE, "options": options, "model": "gemini-3-pro"}
        _, ours = await body_of(dialect, **fields)
        _, theirs = await body_of(dialect, sdk.stream, **fields)
        assert ours == as_spelt_by_us(theirs)


def test_options_that_say_nothing_change_nothing():
    for dialect in DIALECTS:
        plain = sent(dialect)
        for options in (AnswerOptions(), AnswerOptions(tool_choice="required", parallel_tool_calls=False)):
            assert list(sent(dialect, options=options).items()) == list(plain.items())


# --- Each provider by its own words ----------------------------------------------------------------------------------


def test_everything_as_openai_names_it():
    body = sent(CHAT, slug="compatible", options=ALL_OPTIONS)
    assert body["tools"][0]["function"] == {
        "name": "get_weather",
        "description": WEATHER.description,
        "parameters": WEATHER.parameters,
        "strict": True,
    }
    assert body["tools"][1] == {"type": "function", "function": {"name": "now"}}
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", False)
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.5, 0.9, ALL_OPTIONS.seed)
    assert (body["presence_penalty"], body["frequency_penalty"], body["stop"]) == (1.0, -1.0, ["\n\n", "END"])
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "person", "description": "Somebody.", "schema": SCHEMA, "strict": True},
    }


def test_a_tool_is_named_to_each():
    options = AnswerOptions(tools=(WEATHER, NOW), tool_choice="tool:now")
    assert sent(CHAT, options=options)["tool_choice"] == {"type": "function", "function": {"name": "now"}}
    assert sent(MESSAGES, options=options, reasons=False)["tool_choice"] == {"type": "tool", "name": "now"}
    config = sent(GEMINI, options=options)["toolConfig"]["functionCallingConfig"]
    assert config == {"mode": "ANY", "allowedFunctionNames": ["now"]}


SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "stop"}


def test_openais_models_that_reason_are_told_neither_how_to_sample_nor_where_to_stop():
    thinks = sent(CHAT, slug="openai", options=ALL_OPTIONS, model="gpt-6-luna")
    assert not SAMPLING & thinks.keys()
    assert thinks["seed"] == ALL_OPTIONS.seed
    assert sent(CHAT, slug="openai", options=ALL_OPTIONS, model="gpt-4o-mini", reasons=False).keys() >= SAMPLING
    assert sent(CHAT, slug="compatible", options=ALL_OPTIONS).keys() >= SAMPLING


@pytest.mark.parametrize(
    ("model", "effort", "told"),
    [
        ("gpt-6-luna", "high", "none"),
        ("gpt-5.6-terra", "", "none"),
        ("gpt-5", "high", "high"),
        ("gpt-5-mini-2025-08-07", "", None),
        ("o4-mini", "low", "low"),
    ],
)
def test_openais_newer_models_do_not_think_where_they_are_offered_tools(model: str, effort: str, told: str | None):
    asked = {"slug": "openai", "model": model, "effort": effort}
    assert sent(CHAT, **asked, options=AnswerOptions(tools=(NOW,))).get("reasoning_effort") == told
    assert sent(CHAT, **asked).get("reasoning_effort", "") == effort
    assert "reasoning_effort" not in sent(CHAT, slug="openai", reasons=False, options=AnswerOptions(tools=(NOW,)))
    assert sent(CHAT, effort="high", options=AnswerOptions(tools=(NOW,)))["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("fields", "is_off"),
    [
        ({}, False),
        ({"options": AnswerOptions(tools=(NOW,))}, False),
        ({"options": AnswerOptions(tools=(NOW,), tool_choice="auto")}, False),
        ({"options": AnswerOptions(tools=(NOW,), tool_choice="required")}, True),
        ({"options": AnswerOptions(tools=(NOW,), tool_choice="tool:now")}, True),
        ({"messages": CALLED}, True),
        ({"messages": CALLED, "effort": "high"}, True),
    ],
)
def test_deepseek_does_not_think_where_its_thoughts_are_missing_or_it_is_forced(fields: dict[str, Any], is_off: bool):
    assert sent(DEEPSEEK, **fields).get("thinking") == ({"type": "disabled"} if is_off else None)


def test_deepseek_is_told_a_schema_in_words():
    body = sent(DEEPSEEK, options=AnswerOptions(json=JsonSchema(schema=SCHEMA)))
    assert body["response_format"] == {"type": "json_object"}
    assert [one["role"] for one in body["messages"]] == ["system", "system", "user", "assistant", "user"]
    assert body["messages"][1]["content"].startswith(JSON_INSTRUCTION)
    assert json.dumps(SCHEMA, separators=(",", ":")) in body["messages"][1]["content"]
    assert len(sent(DEEPSEEK, options=AnswerOptions(json=JsonSchema()))["messages"]) == len(ASKED)


def test_claude_that_thinks_is_forced_in_words():
    for choice, said in (("required", "one or more of your tools"), ("tool:now", "the tool `now`")):
        options = AnswerOptions(tools=(WEATHER, NOW), tool_choice=choice, parallel_tool_calls=False)
        thinks, does_not = (sent(MESSAGES, options=options, reasons=reasons) for reasons in (True, False))
        assert thinks["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
        assert thinks["system"].startswith("Be kind.\n\n")
        assert said in thinks["system"]
        assert does_not["tool_choice"].items() >= {"disable_parallel_tool_use": True}.items()
        assert does_not["tool_choice"]["type"] in ("any", "tool")
        assert does_not["system"] == "Be kind."


def test_claude_is_told_what_its_api_has_no_name_for():
    body = sent(MESSAGES, options=replace(ALL_OPTIONS, json=JsonSchema()))
    assert body["system"] == f"Be kind.\n\n{JSON_INSTRUCTION}"
    assert not (SAMPLING | {"seed", "output_config"}) & body.keys()
    assert body["stop_sequences"] == ["END"]  # blanks are refused
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_claude_keeps_effort_and_schema_side_by_side():
    body = sent(MESSAGES, options=AnswerOptions(json=JsonSchema(schema=SCHEMA)), effort="low")
    assert body["output_config"] == {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"age": {"type": "integer", "description": "{minimum: 0}"}},
                "required": ["age"],
                "additionalProperties": False,
            },
        },
    }


def test_a_schema_is_closed_in_all_its_parts():
    schema = {
        "$defs": {"City": {"type": "object", "properties": {"name": {"type": "string", "format": "odd"}}}},
        "type": "object",
        "additionalProperties": True,
        "properties": {
            "home": {"$ref": "#/$defs/City"},
            "mail": {"type": "string", "format": "email", "description": "Where."},
            "either": {"oneOf": [{"type": "object", "properties": {}}, {"type": "null"}]},
            "many": {"type": "array", "minItems": 1, "maxItems": 9, "items": {"type": "object", "properties": {}}},
        },
    }
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert closed_schema(schema) == {
        "$defs": {
            "City": {
                "type": "object",
                "properties": {"name": {"type": "string", "description": "{format: odd}"}},
                "additionalProperties": False,
            }
        },
        "type": "object",
        "properties": {
            "home": {"$ref": "#/$defs/City"},
            "mail": {"type": "string", "format": "email", "description": "Where."},
            "either": {"anyOf": [empty, {"type": "null"}]},
            "many": {"type": "array", "minItems": 1, "items": empty, "description": "{maxItems: 9}"},
        },
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "odd",
    [{"properties": [1], "anyOf": {}, "format": [], "minItems": [], "items": 5, "description": 7, "x": {}}, True, []],
)
def test_a_schema_of_any_shape_is_closed(odd: Any):
    json.dumps(closed_schema(odd))


def test_gemini_is_told_in_its_words():
    generation = sent(GEMINI, options=ALL_OPTIONS)["generationConfig"]
    assert generation == {
        "maxOutputTokens": 1_000,
        "thinkingConfig": {"includeThoughts": True},
        "temperature": 0.5,
        "topP": 0.9,
        "seed": 7,
        "stopSequences": ["\n\n", "END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert "responseJsonSchema" not in sent(GEMINI, options=AnswerOptions(json=JsonSchema()))["generationConfig"]


# --- Conversations of other shapes -----------------------------------------------------------------------------------


def test_claude_is_not_sent_what_is_blank():
    messages = (
        ASKED[1],
        Message("assistant", " "),
        Message("user", "", (PNG,)),
        Message("user", "\n"),
        Message("user", "?"),
    )
    first, picture, last = sent(MESSAGES, messages=messages)["messages"]
    assert (first["content"], last["content"]) == ("hola", "?")
    assert [block["type"] for block in picture["content"]] == ["image"]


def test_claude_is_always_asked_something_first():
    for messages in ((ASKED[0],), (ASKED[0], Message("assistant", "¿Sí?"), ASKED[1])):
        body = sent(MESSAGES, messages=messages)
        assert body["messages"][0] == {"role": "user", "content": "…"}


def test_tools_that_were_called_are_named_to_claude_though_none_is_offered():
    body = sent(MESSAGES, messages=CALLED)
    assert [tool["name"] for tool in body["tools"]] == ["get_weather", "now"]
    assert body["tool_choice"] == {"type": "none"}


def test_systems_in_the_middle_are_where_the_format_has_a_place_for_them():
    asked: dict[str, Any] = {"messages": (*ASKED, Message("system", "Be brief."), Message("user", "?"))}
    assert [one["role"] for one in sent(CHAT, slug="openai", **asked)["messages"]].count("developer") == 2
    assert sent(MESSAGES, **asked)["system"] == "Be kind.\n\nBe brief."
    assert sent(GEMINI, **asked)["systemInstruction"] == {"parts": [{"text": "Be kind."}, {"text": "Be brief."}]}


# --- What is counted -------------------------------------------------------------------------------------------------


def test_all_texts_of_a_message_and_of_the_options_are_counted():
    assert [one.texts for one in CALLED[1:5]] == [
        ("¿Qué tiempo hace?",),
        ("", 'call_1 get_weather {"city":"Quito"}', "toolu_2 now "),
        ("Be short.",),
        ('{"sky": "clear"}', "call_1"),
    ]
    weather, now, person = ALL_OPTIONS.texts
    assert json.loads(weather)["parameters"] == WEATHER.parameters
    assert (json.loads(now)["name"], json.loads(person)["schema"]) == ("now", SCHEMA)
    assert AnswerOptions().texts == ()


def test_properties_alone_make_an_object():
    assert closed_schema({"properties": {"a": {"type": "string"}}})["additionalProperties"] is False


def test_a_result_is_of_the_last_calls():
    """Some servers count from zero in each answer, and a call may have stayed without its result."""
    *_first, last, found = with_acceptable_ids((calls("0"), calls("0"), result("0")))
    assert found.tool_call_id == last.tool_calls[0].id
