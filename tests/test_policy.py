"""Reset policies: what Redis decides is what a plain reading of the rules says, to the millisecond, on any calendar."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import fakeredis
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

import sessioncache
from sessioncache.config import Settings, as_environment, settings_from
from sessioncache.conversation.policy import ResetPolicies, ResetPolicy, boundaries, cutoff, rows
from sessioncache.errors import ConfigurationError

LUA = Path(sessioncache.__file__).parent / "lua"
ASK = """
local reason, after = due(ARGV, 6, tonumber(ARGV[1]), ARGV[2] ~= 'absent' and ARGV[2], ARGV[3] ~= 'absent' and ARGV[3],
  ARGV[4], ARGV[5] ~= 'absent' and ARGV[5])
return {reason, ARGV[after]}
"""
SCRIPT = (LUA / "common.lua").read_text() + (LUA / "policy.lua").read_text() + ASK

Ask = Callable[..., str | None]


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def asker(client: redis.Redis) -> Ask:
    """The answer of `due` for a session, and that it says where the arguments end."""

    def ask(policies, at_ms, around, updated_ms, platform="telegram", chat_type="dm", suspended=""):
        arguments = [at_ms, platform, chat_type, updated_ms, suspended, *rows(policies, around), "the end"]
        reason, after = client.eval(SCRIPT, 0, *arguments)
        assert after == b"the end"
        return reason and reason.decode()

    return ask


@pytest.fixture(scope="module")
def ask() -> Ask:
    return asker(fakeredis.FakeRedis())


# What the rules say, read as plainly as can be.


@cache
def day_begins(zone: str, at_hour: int, day: date) -> int:
    """Watch the clocks of the zone minute by minute until they show that day and hour, or a later one."""
    wanted = datetime.combine(day, time(at_hour))
    at = wanted.replace(tzinfo=UTC) - timedelta(days=2)
    while at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        at += timedelta(minutes=1)
    return ms(at)


def days_around(policy: ResetPolicy, around: datetime) -> list[int]:
    today = around.astimezone(ZoneInfo(policy.zone)).date()
    return [day_begins(policy.zone, policy.at_hour, today + timedelta(days=n)) for n in (-3, -2, -1, 0, 1, 2, 3)]


def plainly(policies, at_ms, around, updated_ms, platform, chat_type, suspended):
    if suspended == "1":
        return "suspended"
    policy = policies.default
    if chat_type in policies.by_type:
        policy = policies.by_type[chat_type]
    if platform in policies.by_platform:
        policy = policies.by_platform[platform]
    if policy.mode in ("idle", "both") and at_ms - updated_ms > policy.idle_minutes * 60_000:
        return "idle"
    if policy.mode in ("daily", "both"):
        days = days_around(policy, around)
        if at_ms < days[0] or at_ms >= days[-1]:
            return "clock"
        if any(updated_ms < day <= at_ms for day in days):
            return "daily"
    return None


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo",
         "Asia/Kathmandu", "Pacific/Kiritimati", "Etc/GMT+12"]  # fmt: skip
# Near the changes of the clocks above, and an ordinary day.
MOMENTS = [utc(text) for text in (
    "2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00", "2026-10-03T15:30",
    "2011-12-30T10:00", "2018-02-18T02:00", "2018-11-04T03:00", "2026-06-15T12:00",
)]  # fmt: skip
POLICIES = st.builds(
    ResetPolicy,
    mode=st.sampled_from(["none", "idle", "daily", "both"]),
    idle_minutes=st.sampled_from([1, 0.5, 60, 1440, 2000]),
    at_hour=st.sampled_from([0, 1, 2, 3, 4, 23]),
    zone=st.sampled_from(ZONES),
)
NAMED = st.dictionaries(st.sampled_from(["telegram", "dm", "group"]), POLICIES, max_size=2)


@st.composite
def questions(draw):
    """Policies, and a session at a time, often at or beside the very millisecond that matters."""
    policies = ResetPolicies(default=draw(POLICIES), by_platform=draw(NAMED), by_type=draw(NAMED))
    moment = draw(st.sampled_from(MOMENTS))
    around = moment + timedelta(minutes=draw(st.integers(-2880, 2880)))
    edges = [day for policy in policies.all() for day in days_around(policy, around)]
    beside = st.integers(-1, 1)
    at_ms = draw(st.one_of(
        st.builds(int.__add__, st.sampled_from(edges), beside),
        st.integers(-6 * 1440, 6 * 1440).map(lambda minutes: ms(around) + 60_000 * minutes),
    ))  # fmt: skip
    idle = st.sampled_from([round(policy.idle_minutes * 60_000) for policy in policies.all()])
    updated_ms = draw(st.one_of(
        st.builds(int.__add__, st.sampled_from(edges), beside),
        st.builds(lambda idle_ms, n: at_ms - idle_ms + n, idle, beside),
        st.integers(-10, 5 * 1440).map(lambda minutes: at_ms - 60_000 * minutes),
    ))  # fmt: skip
    names = st.sampled_from(["telegram", "dm", "group", "other", "", "absent"])
    suspended = draw(st.sampled_from(["", "", "", "absent", "1"]))
    return policies, at_ms, around, updated_ms, draw(names), draw(names), suspended


def check(ask: Ask, question) -> None:
    policies, at_ms, _, *session = question
    answer = ask(*question)
    assert answer == plainly(*question)
    if answer == "clock":
        again = (policies, at_ms, datetime.fromtimestamp(at_ms / 1000, UTC), *session)
        assert ask(*again) == plainly(*again) != "clock"


@given(questions())
def test_redis_answers_what_the_rules_say(ask, question):
    """Any policies, sessions, clocks; who is told 'clock' and asks again around Redis's time gets an answer."""
    check(ask, question)


def test_every_server_answers_alike(own_server):
    """Real ones, the oldest supported too where it is there."""
    with redis.Redis.from_url(own_server().url) as client:
        real = asker(client)

        @given(questions())
        @settings(database=None, max_examples=100)
        def property_of_a_server(question):
            check(real, question)

        property_of_a_server()


NOW = utc("2026-06-15T12:00")
HOUR = 3_600_000
DAILY = ResetPolicy(mode="daily")
IDLE = ResetPolicy(mode="idle", idle_minutes=60)


@pytest.mark.parametrize(
    ("policy", "updated_ms", "answer"),
    [
        (ResetPolicy(), 0, None),
        (IDLE, ms(NOW) - HOUR, None),
        (IDLE, ms(NOW) - HOUR - 1, "idle"),
        (IDLE, ms(NOW) + HOUR, None),
        (ResetPolicy(mode="idle"), ms(NOW) - 24 * HOUR, None),
        (ResetPolicy(mode="idle"), ms(NOW) - 24 * HOUR - 1, "idle"),
        (ResetPolicy(mode="idle", idle_minutes=0.001), ms(NOW) - 60, None),
        (ResetPolicy(mode="idle", idle_minutes=0.001), ms(NOW) - 61, "idle"),
        (DAILY, ms(NOW) - 8 * HOUR, None),
        (DAILY, ms(NOW) - 8 * HOUR - 1, "daily"),
        (DAILY, 0, "daily"),
        (ResetPolicy(mode="daily", at_hour=13), ms(NOW) - 23 * HOUR, None),
        (ResetPolicy(mode="daily", at_hour=13), ms(NOW) - 23 * HOUR - 1, "daily"),
        (ResetPolicy(mode="daily", at_hour=12), ms(NOW), None),
        (ResetPolicy(mode="daily", at_hour=12), ms(NOW) - 1, "daily"),
        (ResetPolicy(mode="daily", zone="Europe/Berlin"), ms(NOW) - 10 * HOUR, None),
        (ResetPolicy(mode="daily", zone="Europe/Berlin"), ms(NOW) - 10 * HOUR - 1, "daily"),
        (replace(IDLE, mode="both"), ms(NOW) - HOUR, None),
        (replace(IDLE, mode="both"), ms(NOW) - 9 * HOUR, "idle"),
        (ResetPolicy(mode="both"), ms(NOW) - 9 * HOUR, "daily"),
        (ResetPolicy(mode="both"), 0, "idle"),
    ],
)
def test_the_rules(ask, policy, updated_ms, answer):
    """Strictly longer than idle; strictly before the newest boundary, which counts from its very millisecond."""
    policies = ResetPolicies(default=policy)
    assert ask(policies, ms(NOW), NOW, updated_ms) == answer
    assert ask(policies, ms(NOW), NOW, updated_ms, suspended="1") == "suspended"


def test_platform_before_type_before_default(ask):
    """A name stands for what it is given as: a chat type `telegram` is no platform."""
    policies = ResetPolicies(default=DAILY, by_platform={"telegram": ResetPolicy()}, by_type={"group": IDLE})

    def reason(platform, chat_type):
        return ask(policies, ms(NOW), NOW, 0, platform, chat_type)

    assert reason("telegram", "dm") is None
    assert reason("telegram", "group") is None
    assert reason("discord", "group") == "idle"
    assert reason("discord", "dm") == "daily"
    assert reason("group", "telegram") == "daily"
    assert reason("absent", "absent") == reason("", "") == reason("Telegram", "x") == "daily"


def test_a_clock_far_off_is_told(ask):
    """A client whose clock is wrong by days asks again; by less than two, the answer is right at once."""
    policies = ResetPolicies(default=DAILY)
    for hours in range(-47, 48):
        assert ask(policies, ms(NOW), NOW + timedelta(hours=hours), ms(NOW) - 9 * HOUR) == "daily"
    for away in (timedelta(days=4), timedelta(days=-4), timedelta(days=36_500), NOW - datetime(1970, 1, 1, tzinfo=UTC)):
        assert ask(policies, ms(NOW), NOW - away, 0) == "clock"
        assert ask(policies, ms(NOW), NOW - away, 0, suspended="1") == "suspended"
        assert ask(ResetPolicies(default=replace(IDLE, mode="both")), ms(NOW), NOW - away, 0) == "idle"
        assert ask(ResetPolicies(by_type={"group": DAILY}), ms(NOW), NOW - away, 0) is None


def test_the_arguments_are_few():
    """The layout that `policy.lua` tells of; policies of the same effect are sent once."""
    assert rows(ResetPolicies(), NOW) == [1, 1, "default", 1, "", ""]
    policies = ResetPolicies(
        default=ResetPolicy(mode="both"),
        by_platform={"a": IDLE, "b": replace(IDLE, at_hour=9)},
        by_type={"b": ResetPolicy()},
    )
    days = " ".join(str(ms(utc(f"2026-06-{day}T04:00"))) for day in range(12, 19))
    names = ["default", 1, "platform:a", 2, "platform:b", 2, "type:b", 3]
    assert rows(policies, NOW) == [4, 3, *names, 86_400_000, days, 3_600_000, "", "", ""]


@pytest.mark.parametrize(
    ("zone", "at_hour", "day", "begins"),
    [
        ("Europe/Berlin", 2, "2026-03-28", "2026-03-28T01:00"),
        ("Europe/Berlin", 2, "2026-03-29", "2026-03-29T01:00"),  # does not exist
        ("Europe/Berlin", 3, "2026-03-29", "2026-03-29T01:00"),
        ("Europe/Berlin", 2, "2026-03-30", "2026-03-30T00:00"),
        ("Europe/Berlin", 2, "2026-10-25", "2026-10-25T00:00"),  # exists twice
        ("Europe/Berlin", 3, "2026-10-25", "2026-10-25T02:00"),
        ("Europe/Berlin", 2, "2026-10-26", "2026-10-26T01:00"),
        ("America/New_York", 2, "2026-03-08", "2026-03-08T07:00"),  # does not exist
        ("America/New_York", 3, "2026-03-08", "2026-03-08T07:00"),
        ("America/New_York", 1, "2026-11-01", "2026-11-01T05:00"),  # exists twice
        ("America/New_York", 2, "2026-11-01", "2026-11-01T07:00"),
        ("Australia/Lord_Howe", 2, "2026-10-04", "2026-10-03T15:30"),  # half an hour does not exist
        ("Australia/Lord_Howe", 3, "2026-10-04", "2026-10-03T16:00"),
        ("Australia/Lord_Howe", 1, "2026-04-05", "2026-04-04T14:00"),
        ("Australia/Lord_Howe", 2, "2026-04-05", "2026-04-04T15:30"),  # half past one exists twice
        ("Pacific/Apia", 4, "2011-12-29", "2011-12-29T14:00"),
        ("Pacific/Apia", 0, "2011-12-30", "2011-12-30T10:00"),  # the whole day does not exist
        ("Pacific/Apia", 23, "2011-12-30", "2011-12-30T10:00"),
        ("Pacific/Apia", 4, "2011-12-31", "2011-12-30T14:00"),
        ("America/Sao_Paulo", 0, "2018-11-04", "2018-11-04T03:00"),  # midnight does not exist
        ("America/Sao_Paulo", 0, "2018-02-18", "2018-02-18T03:00"),  # the hour before midnight exists twice
        ("America/St_Johns", 1, "2010-03-14", "2010-03-14T03:31"),  # skipped from 00:01 to 01:01
    ],
)
def test_a_day_begins(zone, at_hour, day, begins):
    """At the first instant after a gap, at the first of two; and it is the oracle's too, whatever day is asked from."""
    policy = ResetPolicy(mode="daily", at_hour=at_hour, zone=zone)
    day = date.fromisoformat(day)
    assert day_begins(zone, at_hour, day) == ms(utc(begins))
    for offset in range(-3, 4):
        # A skipped day has no instant of its own; its noon falls on the day after.
        around = datetime.combine(day + timedelta(days=offset), time(12), ZoneInfo(zone)).astimezone(UTC)
        today = around.astimezone(ZoneInfo(zone)).date()
        found = boundaries(policy, around)
        assert len(found) == 7
        assert found == sorted(found)
        if abs((day - today).days) <= 3:
            assert found[3 + (day - today).days] == ms(utc(begins))


@given(
    st.builds(replace, POLICIES, mode=st.sampled_from(["daily", "both"])),
    st.sampled_from(MOMENTS),
    st.integers(-9999, 9999),
)
def test_every_day_has_one_boundary(policy, moment, minutes):
    """Seven days; the days around a day and those around the next share six."""
    around = moment + timedelta(minutes=minutes)
    found = boundaries(policy, around)
    assert found == days_around(policy, around)
    assert found[0] <= ms(around) < found[-1]


@given(questions())
def test_candidates_are_before_the_cutoff(ask, question):
    """SQL misses no session that is due, but for the suspended ones."""
    policies, at_ms, _, updated_ms, platform, chat_type, _ = question
    now = datetime.fromtimestamp(at_ms / 1000, UTC)
    bound = cutoff(policies, now)
    answer = ask(policies, at_ms, now, updated_ms, platform, chat_type)
    assert answer is None or updated_ms < ms(bound)
    assert (bound is None) == all(one.mode == "none" for one in policies.all())


@given(POLICIES, st.sampled_from(MOMENTS), st.integers(-2880, 2880))
def test_the_cutoff_of_one_policy_is_exact(ask, policy, moment, minutes):
    """No earlier, no later."""
    policies, now = ResetPolicies(default=policy), moment + timedelta(minutes=minutes)
    bound = cutoff(policies, now)
    if bound is not None:
        assert ask(policies, ms(now), now, ms(bound)) is None
        assert ask(policies, ms(now), now, ms(bound) - 1) is not None


EXAMPLE = {
    "default": {"mode": "daily", "at_hour": 4, "zone": "Europe/Berlin"},
    "by_platform": {"telegram": {"mode": "none"}},
    "by_type": {"group": {"mode": "idle", "idle_minutes": 60}},
}
PARSED = ResetPolicies(
    default=ResetPolicy(mode="daily", at_hour=4, zone="Europe/Berlin"),
    by_platform={"telegram": ResetPolicy()},
    by_type={"group": IDLE},
)


@pytest.mark.parametrize(
    ("given_as", "policies"),
    [
        (EXAMPLE, PARSED),
        (json.dumps(EXAMPLE), PARSED),
        (PARSED, PARSED),
        ("", ResetPolicies()),
        (" \n", ResetPolicies()),
        ("{}", ResetPolicies()),
        ({}, ResetPolicies()),
        ({"mode": "idle"}, ResetPolicies(default=ResetPolicy(mode="idle"))),
        ('{"mode": "idle"}', ResetPolicies(default=ResetPolicy(mode="idle"))),
        (IDLE, ResetPolicies(default=IDLE)),
        ({"by_type": {"group": IDLE}}, ResetPolicies(by_type={"group": IDLE})),
    ],
)
def test_policies_are_given_as(given_as, policies):
    """JSON text, mappings, or what they are made into; a bare policy is the default one."""
    assert ResetPolicies.parse(given_as) == policies
    assert ResetPolicies.parse(policies.to_json()) == policies


@given(st.builds(ResetPolicies, default=POLICIES, by_platform=st.dictionaries(st.just('ä"\\'), POLICIES), by_type=NAMED))
def test_text_and_back(policies):
    """What a child process is given in its environment is what its parent had."""
    assert ResetPolicies.parse(policies.to_json()) == policies


def test_policies_are_the_caller_s_no_more():
    """What is done to a mapping that was given changes nothing (I8)."""
    given_as = {"telegram": IDLE}
    policies = ResetPolicies(by_platform=given_as)
    given_as.clear()
    assert policies.by_platform == {"telegram": IDLE}


WRONG = [
    ("at_hour", 24), ("at_hour", -1), ("at_hour", 2.5), ("at_hour", 4.0), ("at_hour", True), ("at_hour", "4"),
    ("at_hour", None), ("at_hour", 10**5000),
    ("zone", "Mars/Olympus"), ("zone", ""), ("zone", "../etc/passwd"), ("zone", "/etc/passwd"), ("zone", "Europe"),
    ("zone", "a\0b"), ("zone", "x" * 5000), ("zone", "localtime"), ("zone", "right/UTC"), ("zone", "\ud800"), ("zone", 1),
    ("zone", None), ("mode", "weekly"), ("mode", ""), ("mode", "Idle"), ("mode", None), ("mode", ["idle"]),
    ("idle_minutes", 0), ("idle_minutes", -1), ("idle_minutes", float("nan")), ("idle_minutes", float("inf")),
    ("idle_minutes", 10**400), ("idle_minutes", 1e300), ("idle_minutes", True), ("idle_minutes", "60"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), WRONG, ids=lambda value: value if value in ("mode", "zone", "at_hour", "idle_minutes") else ""
)
def test_a_wrong_value_is_refused(name, value):
    """Whatever the mode, by a sentence that names the field, and the place it stands in."""
    with pytest.raises(ConfigurationError, match=rf"^{name} of a reset policy must be ") as refused:
        ResetPolicy(**{name: value})
    assert len(str(refused.value)) < 200
    with pytest.raises(ConfigurationError, match=rf"^by_type\['group'\] is refused: {name} of a reset policy must be "):
        ResetPolicies.parse({"by_type": {"group": {name: value}}})


@pytest.mark.parametrize(
    ("given_as", "words"),
    [
        ({"modes": "idle"}, "reset has no 'modes'; there are: at_hour, by_platform, by_type, default, "),
        ({"defaults": {}}, "reset has no 'defaults'; "),
        ({"default": {}, "mode": "idle"}, "reset has no 'mode'; there are: by_platform, by_type, default"),
        ({"default": {"hour": 4}}, "default has no 'hour'; there are: at_hour, idle_minutes, mode, zone"),
        ({"by_type": {"group": {1: 4}}}, r"by_type\['group'\] has no 1; "),
        ({"by_type": {"group": "idle"}}, r"by_type\['group'\] must be a JSON object or a mapping, not str"),
        ({"by_type": [1]}, "by_type must be a JSON object or a mapping, not list"),
        ({"default": None}, "default must be a JSON object or a mapping, not NoneType"),
        ({"by_platform": {"": {}}}, "by_platform is by names of 1 to 255 printable characters, not ''"),
        ({"by_platform": {7: {}}}, "by_platform is by names"),
        ({"by_platform": {"x" * 256: {}}}, "by_platform is by names"),
        ({"by_platform": {"\ud800": {}}}, "by_platform is by names"),
        ("[]", "reset must be a JSON object or a mapping, not list"),
        ("idle", "reset must be JSON text like .*; it cannot be read"),
        ('{"mode": ', "reset must be JSON text"),
        ("[" * 100_000, "reset must be JSON text"),
        ('{"idle_minutes": NaN}', "reset is refused: idle_minutes"),
        (None, "reset must be a JSON object or a mapping, not NoneType"),
        (7, "reset must be a JSON object or a mapping, not int"),
        (True, "reset must be a JSON object or a mapping, not bool"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_is_no_policy_is_refused(given_as, words):
    """Unknown names and wrong types, by a sentence that says where; as a setting too."""
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        ResetPolicies.parse(given_as)
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        settings_from({"reset": given_as}, {})


@pytest.mark.parametrize("wrong", [{"default": {}}, {"by_type": {"group": {}}}, {"by_platform": {"": IDLE}}])
def test_policies_hold_policies(wrong):
    """Built by hand, they are checked too."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ResetPolicies(**wrong)


def test_the_setting():
    """Text, a mapping or policies as an argument, text in the environment; a child process gets the same."""
    text = PARSED.to_json()
    assert Settings().reset == ""
    for value in (EXAMPLE, PARSED, text):
        assert settings_from({"reset": value}, {}).reset == text
    assert settings_from({}, {"SESSIONCACHE_RESET": text}).reset == text
    assert settings_from({}, as_environment(settings_from({"reset": EXAMPLE}, {}))).reset == text
    for wrong in (EXAMPLE, "weekly", '{"mode": "weekly"}'):
        with pytest.raises(ConfigurationError):
            Settings(reset=wrong)
    with pytest.raises(ConfigurationError, match="hold"):
        Settings(hold=0)
