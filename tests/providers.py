"""What providers refuse: the published rules of three request formats, each as a checker.

A checker raises `Refused` with the rule that a request breaks. Nothing here knows the library. Sources stand beside the
rules: files under ``types`` are those of the provider's own Python package, made from its API description; the others are
answers of its servers, as users reported them on GitHub.
"""

from __future__ import annotations

import re


class Refused(Exception):
    """A provider would answer 400."""


def need(condition, rule):
    if not condition:
        raise Refused(rule)


def text(value):
    return isinstance(value, str) and value != ""


CHAT = {
    # Fields besides role and content: types/chat/chat_completion_{system,user,assistant,tool}_message_param.py of openai;
    # reasoning_content and thinking_blocks are DeepSeek's and LiteLLM's.
    "system": {"name"},
    "user": {"name"},
    "assistant": {"name", "tool_calls", "reasoning_content", "thinking_blocks"},
    "tool": {"tool_call_id", "name"},
}


def chat(messages):
    """OpenAI chat completions, and what speaks it."""
    waiting = set()
    need(messages, "at least one message")
    for message in messages:
        role = message.get("role")
        need(role in CHAT, "a known role")
        need(set(message) <= CHAT[role] | {"role", "content"}, "known fields")
        if role == "tool":
            # "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'": miurla/morphic 136
            need(str(message.get("tool_call_id")) in waiting, "a tool message answers a call that waits")
            need(isinstance(message.get("content"), str | list), "a tool message has content")
            waiting.discard(str(message["tool_call_id"]))
            continue
        # "An assistant message with 'tool_calls' must be followed by tool messages responding to each": qwen-code 606
        need(not waiting, "every call is answered before anything else")
        waiting = chat_message(message)
    need(not waiting, "every call is answered")


def chat_message(message):
    content, tool_calls = message.get("content"), message.get("tool_calls")
    if "tool_calls" in message:
        # The server says that an empty array is too short.
        need(isinstance(tool_calls, list) and tool_calls, "tool_calls has an entry")
        # What a call needs: types/chat/chat_completion_message_function_tool_call_param.py of openai
        for call in tool_calls:
            need(text(str(call.get("id") or "")) and call.get("type") == "function", "a call has an id and a type")
            need(all(text(call["function"].get(name)) for name in ("name", "arguments")), "a call has name and arguments")
        found = {str(call["id"]) for call in tool_calls}
        need(len(found) == len(tool_calls), "the ids of a message differ")
        return found
    # Required unless there are calls: types/chat/chat_completion_assistant_message_param.py of openai
    need(isinstance(content, str) or (isinstance(content, list) and content), "a message has content")
    return set()


def responses(items):
    """The input of the OpenAI Responses API."""
    waiting, called = {}, set()
    need(items, "at least one item")
    for item, after in zip(items, [*items[1:], None], strict=True):
        kind = item.get("type", "message")
        if kind == "message":
            # What a message needs: types/responses/easy_input_message_param.py of openai; the other items likewise
            need(item.get("role") in {"user", "assistant", "system", "developer"}, "a known role")
            need(isinstance(item.get("content"), str) or item.get("content"), "a message has content")
        elif kind == "reasoning":
            need(text(item.get("id")) and isinstance(item.get("summary"), list), "reasoning has id and summary")
            # "Item 'rs_…' of type 'reasoning' was provided without its required following item": vercel/ai 7099
            need(after is not None, "reasoning is followed by its item")
            need(
                after.get("role") == "assistant" or str(after.get("type")).endswith("_call"),
                "reasoning is followed by its item",
            )
        elif kind in {"function_call", "custom_tool_call"}:
            need(text(item.get("call_id")) and text(item.get("name")), "a call has call_id and name")
            need(isinstance(item.get("arguments" if kind == "function_call" else "input"), str), "a call has arguments")
            # "No tool output found for function call …": openai/openai-agents-python 2165
            need(item["call_id"] not in waiting, "a call is answered before its id is used again")
            waiting[item["call_id"]] = kind
        elif kind in {"function_call_output", "custom_tool_call_output"}:
            need(isinstance(item.get("output"), str | list), "an output has output")
            # "No tool call found for function call output with call_id …": codex2api 414
            need(
                waiting.pop(item.get("call_id"), None) == kind.removesuffix("_output"),
                "an output answers a call that waits",
            )
        else:
            raise Refused("a known type")
        called.add(kind)
    need(not waiting, "every call is answered")


ANTHROPIC_BLOCKS = {
    # The fields that are required: types/{text,thinking,tool_use,tool_result}_block_param.py of anthropic
    "text": {"text"},
    "thinking": {"thinking", "signature"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id"},
}


def anthropic(messages):
    """Anthropic's Messages API."""
    need(messages, "at least one message")
    # The server's words: first message must use the user role. Newer models may be laxer.
    need(messages[0].get("role") == "user", "the first message is a user's")
    waiting, used = [], set()
    for message in messages:
        need(set(message) == {"role", "content"}, "role and content, nothing else")
        need(message["role"] in {"user", "assistant"}, "a known role")
        content = message["content"]
        found = [{"type": "text", "text": content}] if isinstance(content, str) else content
        # "all messages must have non-empty content except for the optional final assistant message": claude-code 6774
        need(isinstance(found, list) and found, "content is not empty")
        for block in found:
            anthropic_block(block)
        results = [block["tool_use_id"] for block in found if block["type"] == "tool_result"]
        need(message["role"] == "user" or not results, "results are the user's")
        # "unexpected `tool_use_id` found in `tool_result` blocks … in the previous message": claude-code 18947
        need(set(results) <= set(waiting), "a result answers a call of the previous message")
        # "each tool_use must have a single result"
        need(len(set(results)) == len(results), "one result for a call")
        # "`tool_use` ids were found without `tool_result` blocks immediately after": claude-code 8210
        need(set(waiting) <= set(results), "every call is answered in the next message")
        # "Messages following tool_use blocks must begin with a matching number of tool_result blocks": tester-mcp-client 12
        need(all(block["type"] == "tool_result" for block in found[: len(results)]), "results come first")
        waiting = anthropic_calls(message, found, used)
    need(not waiting, "every call is answered")


def anthropic_block(block):
    kind = block.get("type")
    need(kind in ANTHROPIC_BLOCKS and set(block) >= ANTHROPIC_BLOCKS[kind], "a known block with its fields")
    # "text content blocks must be non-empty", "… must contain non-whitespace text": fastllm 44
    need(kind != "text" or block["text"].strip(), "text is not empty")
    need(kind != "tool_use" or isinstance(block["input"], dict), "input is an object")


def anthropic_calls(message, found, used):
    waiting = [block["id"] for block in found if block["type"] == "tool_use"]
    need(message["role"] == "assistant" or not waiting, "calls are the assistant's")
    for name in waiting:
        # "String should match pattern '^[a-zA-Z0-9_-]+$'"; "`tool_use` ids must be unique": trycua/cua 524
        need(isinstance(name, str) and re.fullmatch("[a-zA-Z0-9_-]+", name), "an id of plain characters")
        need(name not in used, "ids of calls differ")
        used.add(name)
    # "The final block in an assistant message cannot be `thinking`": forgecode 2107
    need(message["role"] == "user" or found[-1]["type"] != "thinking", "thinking is not the last block")
    return waiting
