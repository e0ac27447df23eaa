"""What a hydration carries from the store to the hot tier."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A key's current session as the store has it, at one instant.

    Attributes:
        session_id: ``""`` for a key without a session.
        version: the key's version.
        total: messages of the session, also those not in ``elements``.
        ops: the op ids applied last, each with its (first) version, in groups, oldest first.
        fields: whatever else ``meta`` holds of the session.
        elements: the newest messages, as elements of the ``history`` list, oldest first.
    """

    session_id: str
    version: int
    total: int
    owner: str
    created_ms: int
    updated_ms: int
    accessed_ms: int
    ops: list[list[tuple[str, int]]]
    elements: list[bytes]
    fields: dict[str, str | bytes | int] = field(default_factory=dict)
