"""The shapes of rows: what their parts are called, and what of them a provider takes.

A row is a message as the application appended it: a JSON object. It is a message of a chat (OpenAI chat completions or
Anthropic messages; by its ``role``), or an item of the OpenAI Responses API (by its ``type``). Applications put fields of
their own beside those of the API; `sent` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

# The types of content blocks that are text for a reader, and of those that only the model that wrote them needs.
# Tuples, since a type may be anything that JSON can say.
TEXTS = ("text", "input_text", "output_text")
THINKING = ("thinking", "redacted_thinking")

CHAT_FIELDS = frozenset(
    {"role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "thinking_blocks"},
)
# As documented for the input of the Responses API, besides ``type`` and ``id``.
_ITEM_FIELDS = {
    "message": "role content status phase",
    "function_call": "call_id name arguments caller namespace status",
    "function_call_output": "call_id output caller name namespace status",
    "custom_tool_call": "call_id name input caller namespace",
    "custom_tool_call_output": "call_id output caller",
    "reasoning": "summary content encrypted_content status",
    "computer_call": "call_id action actions pending_safety_checks status",
    "computer_call_output": "call_id output acknowledged_safety_checks status",
    "local_shell_call": "call_id action status",
    "local_shell_call_output": "call_id output status",
    "shell_call": "call_id action caller environment status",
    "shell_call_output": "call_id output caller max_output_length status",
    "apply_patch_call": "call_id operation caller status",
    "apply_patch_call_output": "call_id output caller status",
    "tool_search_call": "call_id arguments execution status",
    "tool_search_output": "call_id tools execution status",
    "web_search_call": "action status",
    "file_search_call": "queries results status",
    "code_interpreter_call": "code container_id outputs status",
    "image_generation_call": "result status action background error output_format quality revised_prompt size",
    "mcp_call": "arguments name server_label approval_request_id error output status",
    "mcp_list_tools": "server_label tools error",
    "mcp_approval_request": "arguments name server_label",
    "mcp_approval_response": "approval_request_id approve reason",
    "program": "call_id code fingerprint",
    "program_output": "call_id result status",
    "compaction": "encrypted_content",
    "item_reference": "",
}
ITEM_FIELDS = {kind: frozenset(("type", "id", *names.split())) for kind, names in _ITEM_FIELDS.items()}
# Of an item of a type that is not known here yet.
ANY_ITEM_FIELDS = frozenset[str]().union(*ITEM_FIELDS.values())


def sent(row: Row) -> dict[str, Any]:
    """A copy of the row with the fields that a provider may be sent, in their order; no ``tool_calls`` without a call."""
    fields = CHAT_FIELDS
    if is_item(row):
        fields = ITEM_FIELDS.get(row["type"], ANY_ITEM_FIELDS)
    elif row.get("type") == "message" and _is_response_message(row):
        fields = ITEM_FIELDS["message"]
    return {
        name: row[name]
        for name in row
        if name in fields and (name != "tool_calls" or (isinstance(row[name], list) and row[name]))
    }


def _is_response_message(row: Row) -> bool:
    """Whether a message is one of the Responses API: Anthropic's responses have a ``type`` too."""
    kinds = [str(block.get("type")) for _, block in blocks(row)]
    return "tool_calls" not in row and all(kind.startswith(("input_", "output_", "refusal")) for kind in kinds)


def is_item(row: Row) -> bool:
    """Whether it is an item of the Responses API other than a message."""
    return "role" not in row and isinstance(row.get("type"), str)


def blocks(row: Row, *types: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place and block of each content block of these types; of every block if none is given."""
    content = row.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict) and (not types or block.get("type") in types):
            yield index, block
