"""LangChain's ChatOpenAI asks the site."""

from typing import Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from scenarios import IMAGE, MODELS, run_scenarios, scenario


@as_tool
def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def chat(model: str = "text", **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODELS[model], **fields)


@scenario
def invoke() -> Any:
    message = chat().invoke([("system", "Be terse."), ("human", "Hola")])
    return {"text": message.content, "usage": message.usage_metadata, "metadata": message.response_metadata}


@scenario
def stream() -> Any:
    chunks = list(chat(stream_usage=True).stream("Hola"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"text": whole.content, "usage": whole.usage_metadata}


@scenario
async def asynchronous() -> Any:
    message = await chat().ainvoke("Hola")
    streamed = [chunk.content async for chunk in chat().astream("Hola")]
    return {"text": message.content, "streamed": "".join(streamed)}


@scenario
def image() -> Any:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    return chat().invoke([HumanMessage(content=parts)]).content


@scenario
def standard_image() -> Any:
    """An image in LangChain's own words."""
    kind, _, data = IMAGE.removeprefix("data:").partition(";base64,")
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image", "base64": data, "mime_type": kind}]
    return chat().invoke([HumanMessage(content=parts)]).content


@scenario
def tool() -> Any:
    bound = chat("call").bind_tools([weather])
    asked = HumanMessage('{"city": "Quito"}')
    called = bound.invoke([asked])
    [call] = called.tool_calls
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answered = bound.invoke([asked, called, result])
    return {"call": call, "result": result.content, "text": answered.content}


@scenario
def tool_streamed() -> Any:
    chunks = list(chat("two calls").bind_tools([weather]).stream('{"city": "Quito"}'))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole.tool_calls


@scenario
def structured() -> Any:
    found = {
        "json_schema": chat("echo").with_structured_output(Person, method="json_schema"),
        "json_mode": chat("echo").with_structured_output(Person, method="json_mode"),
        "function_calling": chat("call").with_structured_output(Person, method="function_calling"),
    }
    return {method: ask.invoke('{"name": "Ana", "age": 7}').model_dump() for method, ask in found.items()}


@scenario
def wrong_key() -> Any:
    try:
        chat(api_key="ttl_none").invoke("Hola")
    except openai.AuthenticationError as error:
        return error.code


if __name__ == "__main__":
    run_scenarios()
