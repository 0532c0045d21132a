"""Roles, projects, names of the server."""

from __future__ import annotations

from itertools import product

import pytest

from singularity.api.auth import Caller, Role, check_origin, parse_role
from singularity.primitives.errors import Forbidden, InvalidSpec
from singularity.primitives.nodes import NodeId

_PEOPLE = [Role.VIEWER, Role.SUBMITTER, Role.OPERATOR, Role.ADMIN]


@pytest.mark.parametrize(("has", "needs"), [*product(_PEOPLE, _PEOPLE)])
def test_a_role_may_do_what_those_below_may(has: Role, needs: Role) -> None:
    caller = Caller("t", has)
    if has >= needs:
        caller.need(needs)
        caller.need_planet(needs)
    else:
        with pytest.raises(Forbidden):
            caller.need(needs)


@pytest.mark.parametrize("role", _PEOPLE)
def test_a_token_of_one_project_sees_it_and_nothing_of_the_planet(role: Role) -> None:
    caller = Caller("t", role, project="vision")
    assert caller.sees("vision") and not caller.sees("speech")
    with pytest.raises(Forbidden):
        caller.need_planet(Role.VIEWER)


@pytest.mark.parametrize(
    "caller",
    [Caller("t", Role.AGENT, node=NodeId("n1")), Caller("join", Role.NOBODY, joining=True)],
)
def test_machines_are_nobody_among_people(caller: Caller) -> None:
    assert not caller.sees("default")
    with pytest.raises(Forbidden):
        caller.need(Role.VIEWER)
    with pytest.raises(Forbidden):
        caller.need_node("n2")


def test_only_the_agent_of_a_node_speaks_for_it() -> None:
    Caller("t", Role.AGENT, node=NodeId("n1")).need_node("n1")
    with pytest.raises(Forbidden):
        Caller("t", Role.ADMIN, node=NodeId("n1")).need_node("n1")


@pytest.mark.parametrize("name", ["agent", "nobody", "root", "ADMIN", ""])
def test_only_roles_of_people_are_given_out(name: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_role(name)


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("localhost", None, True),
        ("LOCALHOST:8470", None, True),
        ("[::1]:8470", None, True),
        ("localhost:1", "http://localhost:8470", True),
        ("evil.example", None, False),
        ("localhost.evil.example:8470", None, False),
        ("", None, False),
        ("localhost", "http://evil.example", False),
        ("localhost", "null", False),
        ("localhost", "http://localhost.evil.example", False),
        ("localhost", "http://user@evil.example", False),
    ],
)
def test_a_page_of_another_name_is_refused(host: str, origin: str | None, fine: bool) -> None:
    headers = {"host": host} | ({"origin": origin} if origin is not None else {})
    allowed = frozenset({"localhost", "[::1]"})
    if fine:
        check_origin(headers, allowed)
    else:
        with pytest.raises(Forbidden):
            check_origin(headers, allowed)
    check_origin(headers, frozenset({"*"}))
