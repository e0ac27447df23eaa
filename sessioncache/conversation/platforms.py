"""What is known of platforms, as data: an application adds its own with ``PLATFORMS | {"matrix": Platform(...)}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A platform, in words that the application vouches for.

    Attributes:
        label: how it is called.
        notes: what a model should know that talks there; may be empty.
        redactable: whether a model needs no ids there, because nobody is mentioned by id.
    """

    name: str
    label: str
    notes: str = ""
    redactable: bool = False


_SLACK = (
    "You are talking inside Slack, through messages alone; you have no access to Slack's API. You cannot search the "
    "history of a channel, pin messages, manage channels, or list users. Do not promise any of it; say so when you are "
    "asked."
)
_DISCORD = (
    "You are talking inside Discord, through messages alone; you have no access to Discord's API. You cannot search the "
    "history of a channel, pin messages, manage channels or roles, or list members. Do not promise any of it; say so when "
    "you are asked."
)

PLATFORMS: Mapping[str, Platform] = MappingProxyType(
    {
        one.name: one
        for one in (
            Platform(name="local", label="Local"),
            Platform(name="slack", label="Slack", notes=_SLACK),
            Platform(name="discord", label="Discord", notes=_DISCORD),
            Platform(name="whatsapp", label="WhatsApp", redactable=True),
            Platform(name="signal", label="Signal", redactable=True),
            Platform(name="telegram", label="Telegram", redactable=True),
            Platform(name="bluebubbles", label="BlueBubbles", redactable=True),
        )
    }
)


def platform_named(name: str, platforms: Mapping[str, Platform] = PLATFORMS) -> Platform:
    """The platform of this name; for an unknown one its name as the label, no notes, ids shown."""
    return platforms.get(name) or Platform(name=name, label=name.replace("_", " ").title())
