"""Rows of a conversation, in three shapes: what is said, calls of tools, and their results."""

from __future__ import annotations


def said(text="q"):
    return {"role": "user", "content": text}


def reply(text="a", **more):
    return {"role": "assistant", "content": text, **more}


def chat_call(*names):
    function = {"name": "f", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": name, "type": "function", "function": function} for name in names],
    }


def chat_result(name):
    return {"role": "tool", "tool_call_id": name, "content": "r"}


def use(name):
    return {"type": "tool_use", "id": name, "name": "f", "input": {}}


def result(name):
    return {"type": "tool_result", "tool_use_id": name, "content": "r"}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def call_item(name):
    if name == "c1":
        return {"type": "custom_tool_call", "call_id": name, "name": "f", "input": "x"}
    return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}


def output_item(name):
    return {"type": f"{call_item(name)['type']}_output", "call_id": name, "output": "r"}


USER, REPLY = said(), reply()
TEXT = {"type": "text", "text": "t"}
THOUGHT = {"type": "thinking", "thinking": "h", "signature": "s"}
REASONING = {"type": "reasoning", "id": "rs", "summary": []}
