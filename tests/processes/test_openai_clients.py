"""The programs that people ask with, as they are: OpenAI's SDKs, llm and LangChain, against a site that runs.

Each is in an environment of its own, which `make clients` installs, and runs once: what it did is a JSON line for each
scenario of tests/clients/, and each test looks at one of them.
"""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from testbed.provider import Counters, expected_text
from testbed.site import ROOT
from tests.fakes.readers import Member
from tests.processes.stores import TestedSite, run_site

INSTALLED = ROOT / ".clients"
PROGRAMS = ROOT / "tests" / "clients"
IS_REQUIRED = os.environ.get("REQUIRE_CLIENTS") == "1"
NOT_INSTALLED = "The clients of the OpenAI-compatible API are not all installed: make clients."
if not IS_REQUIRED and not any(INSTALLED.glob("*/installed")):
    pytest.skip(NOT_INSTALLED, allow_module_level=True)  # one line, instead of one for each test

OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
MODELS = {
    "text": "fake-20t-0ms",
    "echo": "fake-99t-0ms-echo4",
    "call": "fake-20t-0ms-call1",
    "two calls": "fake-20t-20ms-call2",
    "breaking": "fake-9t-20ms-error4",
    "failing": "status-503",
    "late": "fake-5t-0ms-f1500",
    "slow": "fake-20t-60ms",
    "long": "fake-900t-20ms",
}
CITY = '{"city": "Quito"}'
TEXT = expected_text(MODELS["text"])
LLM_MODEL = """
- model_id: {id}
  model_name: {name}
  api_base: {base}
  api_key_name: tertulia
  vision: true
  supports_tools: true
"""


@dataclass(frozen=True)
class Asked:
    """A site, and the keys that the clients have: each allows what its name says."""

    site: TestedSite
    keys: Mapping[str, str]
    image: str

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.site.port()}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client knows, under the names that all of them look for."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": self.site.environment["DATA_DIR"],
            "OPENAI_BASE_URL": self.base,
            "OPENAI_API_KEY": self.keys["good"],
            "MODELS": json.dumps(MODELS),
            "KEYS": json.dumps(self.keys),
            "IMAGE": self.image,
        }


@dataclass(frozen=True)
class Done:
    """What came of a client's scenarios; what it made the provider see, and how many of those streams were closed."""

    lines: Mapping[str, Any]
    requests: list[dict[str, Any]]
    aborted: int

    def __getitem__(self, scenario: str) -> Any:
        line = self.lines[scenario]
        assert "failed" not in line, line["failed"]
        return line["result"]

    def bodies(self, field: str) -> list[Any]:
        return [body[field] for body in self.requests if field in body]


def installed(client: str) -> Path:
    """Return where a client is; without it its tests are skipped, or fail where REQUIRE_CLIENTS is 1."""
    folder = INSTALLED / client
    if not (folder / "installed").exists():
        if IS_REQUIRED:
            pytest.fail(f"{NOT_INSTALLED} {client} is missing, and REQUIRE_CLIENTS=1.", pytrace=False)
        pytest.skip(NOT_INSTALLED)
    return folder


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    if not any(INSTALLED.glob("*/installed")):
        installed("openai")  # it is not: no site is needed
    with run_site(list(MODELS.values()), webs=1, runners=1, workers=0) as site:
        site.offer({"key": MODELS["text"], "sees_images": True})
        [member] = site.people(1, **OPEN)
        [hasty] = site.people(1, **{**OPEN, "turns_per_hour": 1})
        keys = {
            "good": key_of(member, scopes=["chat"]),
            "usage": key_of(member, scopes=["usage"]),
            "keeping": key_of(member, scopes=["chat", "history"], keep_conversations=True),
            "poor": key_of(member, scopes=["chat"], monthly_credits=1),
            "one model": key_of(member, scopes=["chat"], models=[MODELS["text"]]),
            "hasty": key_of(hasty, scopes=["chat"]),
        }
        yield Asked(site, keys, an_image())


def key_of(member: Member, **terms: Any) -> str:
    status, made = asyncio.run(member.call("POST", "keys", name="Tests", **terms))
    assert status == 201, made
    key: str = made["key"]
    return key


def an_image() -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def run(asked: Asked, command: list[str | Path], *, program: str = "", folder: Path = ROOT) -> Done:
    """Run a client to its end; return what it did."""
    before = asked.site.provider.stats()
    done = subprocess.run(
        command, env=asked.environment, cwd=folder, input=program, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    lines = {line["scenario"]: line for line in map(json.loads, done.stdout.splitlines())}
    return done_since(before, asked, lines)


def done_since(before: Counters, asked: Asked, lines: Mapping[str, Any]) -> Done:
    now = asked.site.provider.stats()
    count = now.started + now.refused - before.started - before.refused
    assert 0 < count <= len(now.requests)
    return Done(lines, now.requests[-count:], now.aborted - before.aborted)


# --- OpenAI's SDKs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(asked: Asked) -> Done:
    return run(asked, [installed("openai") / "bin" / "python", PROGRAMS / "openai_python.py"])


@pytest.fixture(scope="module")
def node(asked: Asked) -> Done:
    folder = installed("node")
    program = (PROGRAMS / "openai_node.mjs").read_text()  # packages are looked for from the folder it is started in
    return run(asked, [folder / "bin" / "node", "--input-type=module", "-"], program=program, folder=folder)


@pytest.fixture(params=["python", "node"])
def sdk(request: pytest.FixtureRequest) -> Done:
    found: Done = request.getfixturevalue(request.param)
    return found


def test_an_sdk_lists_the_models(sdk: Done) -> None:
    assert sdk["models"][0] == "auto"
    assert set(sdk["models"]) == {"auto", *MODELS.values()}


def test_an_sdk_reads_an_answer(sdk: Done) -> None:
    found = sdk["answer"]
    assert (found["text"], found["finish_reason"], found["model"]) == (TEXT, "stop", MODELS["text"])
    usage = found["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1, 20, 21)
    assert usage["cost_micros"] == 41
    assert len(found["request_id"]) == 32


def test_a_key_keeps_a_dialogue_of_the_sdk_as_one_conversation(python: Done) -> None:
    asked, told, again = python["kept"]
    assert asked == [CITY, f"````\nweather({CITY})\n````", "completed"]
    assert told == ["````\nweather → Llueve.\n````", TEXT, "completed"]
    assert again == ["¿Y mañana?", TEXT, "completed"]


def test_an_sdk_reads_a_stream_with_its_usage(sdk: Done) -> None:
    found = sdk["stream"]
    assert (found["text"], found["finish_reason"], found["usages"]) == (TEXT, "stop", 1)
    assert found["usage"] == sdk["answer"]["usage"]
    assert sdk["stream_helper"] == {"text": TEXT, "final": TEXT}


def test_an_image_reaches_the_provider(asked: Asked, sdk: Done) -> None:
    assert sdk["image"] == TEXT
    assert images_of(sdk) == [asked.image]


def test_a_tool_is_called_and_its_result_answered(sdk: Done) -> None:
    found = sdk["tool"]
    assert (found["finish_reason"], found["name"], found["arguments"]) == ("tool_calls", "weather", CITY)
    assert found["text"] == TEXT
    told = {"role": "tool", "tool_call_id": found["id"], "content": "It rains."}
    [conversation] = [messages for messages in sdk.bodies("messages") if messages[-1] == told]
    assert conversation[-2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": CITY}
    [tool] = sdk.bodies("tools")[0]
    assert tool["function"]["parameters"]["required"] == ["city"]


def test_calls_of_tools_are_streamed(sdk: Done) -> None:
    found = sdk["tools_streamed"]
    assert found["finish_reason"] == "tool_calls"
    assert [call[1:] for call in found["calls"]] == [["weather", CITY]] * 2
    assert len({call[0] for call in found["calls"]}) == 2
    assert found["parts"] > 2
    assert "required" in sdk.bodies("tool_choice")


def test_the_form_of_an_answer_is_passed_on(sdk: Done) -> None:
    assert sdk["json_mode"] == sdk["json_schema"] == '{"a": 1}'
    mode, schema = sdk.bodies("response_format")
    assert mode == {"type": "json_object"}
    assert (schema["type"], schema["json_schema"]["name"], schema["json_schema"]["strict"]) == (
        "json_schema",
        "thing",
        True,
    )


@pytest.mark.parametrize(
    ("scenario", "name", "status", "code", "parameter"),
    [
        ("wrong_key", "AuthenticationError", 401, "invalid_api_key", None),
        ("wrong_scope", "PermissionDeniedError", 403, "key_not_allowed", None),
        ("unknown_model", "NotFoundError", 404, "model_not_found", None),
        ("unknown_address", "NotFoundError", 404, "unknown_url", None),
        ("bad_parameter", "BadRequestError", 400, "invalid", "temperature"),
        ("used_up", "RateLimitError", 429, "insufficient_quota", None),
        ("failed", "InternalServerError", 503, "overloaded", None),
    ],
)
def test_an_error_is_the_sdk_s_own_and_not_asked_again(
    sdk: Done, scenario: str, name: str, status: int, code: str, parameter: str | None
) -> None:
    found = sdk[scenario]
    assert (found["class"], found["status"], found["code"], found["param"]) == (name, status, code, parameter)
    assert found["requests"] == 1


def test_an_answer_that_breaks_off_raises(sdk: Done) -> None:
    found = sdk["broken_stream"]
    assert (found["class"], found["code"], found["text"]) == ("APIError", "overloaded", "t0 t1 t2 t3 ")


def test_a_stream_that_is_closed_is_stopped_and_what_is_asked_again_is_paid_once(asked: Asked, sdk: Done) -> None:
    assert sdk["asked_again"]["requests"] > 1
    assert sdk["asked_again"]["text"] == TEXT
    assert sdk.aborted == 1  # the stream that was closed
    assert sdk.bodies("model").count(MODELS["slow"]) == 1
    costs = asked.site.audit()["records"]
    assert 0 < costs[turn_of(sdk["closed"])] < 900
    assert costs[turn_of(sdk["asked_again"]["id"])] == 41


def test_a_stream_that_is_asked_again_before_it_began_goes_on(python: Done) -> None:
    assert python["stream_asked_again"]["requests"] > 1
    assert python["stream_asked_again"]["text"] == expected_text(MODELS["late"])
    assert python.bodies("model").count(MODELS["late"]) == 1


def turn_of(completion_id: str) -> str:
    return str(UUID(completion_id.removeprefix("chatcmpl-")))


def images_of(done: Done) -> list[str]:
    parts = [
        part for [*_, last] in done.bodies("messages") if isinstance(last["content"], list) for part in last["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def test_an_sdk_asks_asynchronously(python: Done) -> None:
    assert python["asynchronous"] == TEXT


def test_options_are_passed_on(python: Done) -> None:
    assert python["options"] == {"text": expected_text("fake-9t-0ms"), "finish_reason": "length"}
    [body] = [body for body in python.requests if "temperature" in body]
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0.5, 0.9, 7, ["END"])
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.5, -0.5)
    assert body.get("user") != "somebody"
    assert "metadata" not in body


def test_who_asks_too_often_is_told_so(python: Done) -> None:
    found = python["too_often"]
    assert (found["class"], found["status"], found["code"]) == ("RateLimitError", 429, "rate_limit_exceeded")


# --- LangChain --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def langchain(asked: Asked) -> Done:
    return run(asked, [installed("langchain") / "bin" / "python", PROGRAMS / "langchain_client.py"])


def test_langchain_asks(langchain: Done) -> None:
    found = langchain["invoke"]
    assert found["text"] == TEXT
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (3, 20)
    assert found["metadata"]["finish_reason"] == "stop"
    assert langchain.bodies("messages")[0][0] == {"role": "system", "content": "Be terse."}


def test_langchain_reads_a_stream(langchain: Done) -> None:
    found = langchain["stream"]
    assert (found["text"], found["usage"]["output_tokens"]) == (TEXT, 20)
    assert langchain["asynchronous"] == {"text": TEXT, "streamed": TEXT}


def test_langchain_shows_images(asked: Asked, langchain: Done) -> None:
    assert langchain["image"] == langchain["standard_image"] == TEXT
    assert images_of(langchain) == [asked.image] * 2


def test_langchain_binds_tools(langchain: Done) -> None:
    found = langchain["tool"]
    assert (found["call"]["name"], found["call"]["args"]) == ("weather", {"city": "Quito"})
    assert found["text"] == TEXT
    [conversation] = [messages for messages in langchain.bodies("messages") if messages[-1]["role"] == "tool"]
    assert conversation[-1]["content"] == "It rains in Quito."
    assert [call["args"] for call in langchain["tool_streamed"]] == [{"city": "Quito"}] * 2


def test_langchain_makes_objects_of_answers(langchain: Done) -> None:
    ana = {"name": "Ana", "age": 7}
    assert langchain["structured"] == {"json_schema": ana, "json_mode": ana, "function_calling": ana}
    assert [wanted["type"] for wanted in langchain.bodies("response_format")] == ["json_schema", "json_object"]


def test_langchain_raises_the_sdk_s_errors(langchain: Done) -> None:
    assert langchain["wrong_key"] == "invalid_api_key"


# --- llm --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Llm:
    """How the commands of llm ended, and what the provider had seen then."""

    results: Mapping[str, "subprocess.CompletedProcess[str]"]
    done: Done

    def said(self, command: str) -> str:
        result = self.results[command]
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def llm(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    folder = tmp_path_factory.mktemp("llm")
    (folder / "image.png").write_bytes(base64.b64decode(asked.image.partition(",")[2]))
    (folder / "tools.py").write_text('def weather(city: str) -> str:\n    return f"It rains in {city}."\n')
    key, poor = (["--no-log", "--key", asked.keys[name]] for name in ("good", "poor"))
    commands = {
        "models": ["models"],
        "endpoint": ["openai", "endpoint", asked.base, "--models", "--key", asked.keys["good"]],
        "stream": ["-m", "text", "Hola", *key],
        "image": ["-m", "text", "What is it?", "-a", str(folder / "image.png"), "--no-stream", "--usage", *key],
        "tool": ["-m", "call", CITY, "--functions", str(folder / "tools.py"), *key],
        "error": ["-m", "text", "Hola", *poor],
    }
    settings = "".join(LLM_MODEL.format(id=name, name=MODELS[name], base=asked.base) for name in ("text", "call"))
    program, before = installed("llm") / "bin" / "llm", asked.site.provider.stats()

    def ask(name: str) -> "subprocess.CompletedProcess[str]":
        own = folder / name  # they run at once, and each makes its database
        own.mkdir()
        (own / "extra-openai-models.yaml").write_text(settings)
        environment = asked.environment | {"LLM_USER_PATH": str(own)}
        command = [program, *commands[name]]
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
        )

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(commands, pool.map(ask, commands), strict=True))
    return Llm(results, done_since(before, asked, {}))


def test_llm_lists_the_models(llm: Llm) -> None:
    assert {"OpenAI Chat: text", "OpenAI Chat: call"} <= set(llm.said("models").splitlines())
    assert {"auto", *MODELS.values()} == set(llm.said("endpoint").splitlines())


def test_llm_streams_and_does_not(asked: Asked, llm: Llm) -> None:
    assert llm.said("stream").strip() == TEXT.strip()
    assert llm.said("image").strip() == TEXT.strip()
    assert "20 output" in llm.results["image"].stderr
    assert asked.image in images_of(llm.done)


def test_llm_runs_tools(llm: Llm) -> None:
    assert TEXT.strip() in llm.said("tool")
    [conversation] = [
        messages
        for messages in llm.done.bodies("messages")
        if messages[-1]["role"] == "tool" and messages[-1]["content"] == "It rains in Quito."
    ]


def test_an_error_of_llm_is_a_sentence(llm: Llm) -> None:
    result = llm.results["error"]
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert "may still use this month does not cover this question" in result.stderr


# --- The manual -------------------------------------------------------------------------------------------------------


MANUAL = (ROOT / "docs" / "api.md").read_text().partition("\n## OpenAI-compatible API\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"^```(sh|python|javascript)\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "example"), EXAMPLES)
def test_the_examples_of_the_manual_work_word_for_word(
    asked: Asked, tmp_path: Path, language: str, example: str
) -> None:
    client = {"sh": "llm", "python": "langchain", "javascript": "node"}[language]  # LangChain's has OpenAI's SDK
    folder = installed(client)
    if "curl" in example and shutil.which("curl") is None and not IS_REQUIRED:
        pytest.skip("curl is not installed.")
    command = {"sh": ["sh", "-e"], "python": ["python"], "javascript": ["node", "--input-type=module", "-"]}[language]
    path = f"{folder / 'bin'}:{asked.environment['PATH']}"
    environment = asked.environment | {
        "PATH": path,
        "OPENAI_API_KEY": asked.keys["one model"],
        "LLM_USER_PATH": str(tmp_path),
    }
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        input=example,
        capture_output=True,
        text=True,
        timeout=120,
        executable=shutil.which(command[0], path=path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = 1 + ("stream" in example.lower())
    if "curl" in example:
        assert done.stdout.count('"finish_reason":"stop"') == answers
        assert done.stdout.endswith("data: [DONE]\n\n")
    else:
        assert done.stdout.count(TEXT) == answers


def test_the_manual_shows_each_client() -> None:
    assert [language for language, _ in EXAMPLES] == ["sh", "python", "javascript", "sh", "python"]
