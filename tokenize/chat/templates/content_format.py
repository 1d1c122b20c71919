"""Whether a template wants the content of a message as a text, or as a list of parts.

vLLM's rule: parts ("openai") where the template loops over a message's content, else text ("string").
It is found in the syntax tree, by names: what is called a message, what is assigned from it, and which
parameter of a macro is given a message's content. Where vLLM's search fails on a construct it did not
expect, it takes "string"; so does this one.
Source: vLLM 0.32, vllm/renderers/hf.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, TypeAlias

from jinja2 import nodes

ContentFormat = Literal["string", "openai"]
_Source: TypeAlias = "tuple[str, str | None] | None"


class _UnexpectedTargetError(Exception):
    """A loop or assignment to something that is not a plain name."""


def content_format(tree: nodes.Template) -> ContentFormat:
    """Of a parsed template, before syntax.put_ticks."""
    try:
        return "openai" if any(True for _ in _content_loops(tree)) else "string"
    except _UnexpectedTargetError:
        return "string"


def _content_loops(tree: nodes.Template) -> Iterator[nodes.For]:
    loops = list(tree.find_all(nodes.For))
    lists: set[_Source] = {(name, None) for name in _names_assigned_from(tree, "messages")}
    messages = {_name_of(loop.target) for loop in loops if _source(loop.iter) in lists}
    contents: set[_Source] = {(message, "content") for message in messages}
    given = _macro_loops(tree, contents)
    for loop in loops:
        name = loop.iter.name if isinstance(loop.iter, nodes.Name) else None
        if _source(loop.iter) in contents or name in given.get(id(loop), {"content"}):
            _name_of(loop.target)
            yield loop


def _names_assigned_from(tree: nodes.Template, name: str) -> set[str]:
    """The name itself, and what is set to it or to a slice or filter of it, over any number of steps."""
    targets: defaultdict[_Source, list[nodes.Expr]] = defaultdict(list)
    for assignment in tree.find_all(nodes.Assign):
        targets[_source(assignment.node)].append(assignment.target)
    seen, waiting = {name}, [name]
    while waiting:
        found = {_name_of(target) for target in targets[waiting.pop(), None]} - seen
        seen |= found
        waiting += found
    return seen


def _macro_loops(tree: nodes.Template, contents: set[_Source]) -> dict[int, set[str]]:
    """By id of each loop in a macro: the macro's parameters that are given a message's content."""
    given: defaultdict[str, set[int | str]] = defaultdict(set)  # by macro: places and keywords
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            keys: list[int | str] = [*range(len(call.args)), *(keyword.key for keyword in call.kwargs)]
            values = [*call.args, *(keyword.value for keyword in call.kwargs)]
            given[call.node.name].update(
                key for key, value in zip(keys, values, strict=True) if _source(value) in contents
            )
    parameters_of: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        parameters = {name for place, name in enumerate(names) if {place, name} & given[macro.name]}
        for loop in macro.find_all(nodes.For):
            if parameters or id(loop) not in parameters_of:
                parameters_of[id(loop)] = parameters
    return parameters_of


def _source(node: nodes.Node | None) -> _Source:
    """(name, None) of a variable, (name, key) of its attribute or item; of filters, tests and slices of
    these, too. None of all else."""
    while isinstance(node, (nodes.Filter, nodes.Test)) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if isinstance(node, nodes.Name):
        return (node.name, None) if node.ctx == "load" else None
    owner = node.node if isinstance(node, (nodes.Getattr, nodes.Getitem)) else None
    if not isinstance(owner, nodes.Name) or owner.ctx != "load":
        return None
    if isinstance(node, nodes.Getattr):
        return owner.name, node.attr
    key = node.arg.value if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) else None
    return (owner.name, key) if isinstance(key, str) else None


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _UnexpectedTargetError
    return target.name
