"""What a template may consist of, and where it looks at its budget."""

from __future__ import annotations

from jinja2 import nodes
from jinja2.exceptions import TemplateAssertionError

from kvatlas.tokenize.chat.templates.budget import LOOK_BYTES

COST_MAX = 400_000
"""Nodes of the tree times the statements around each: what the compiler's passes over it cost."""
BLOCKS_MAX = 1_000
"""Loops, macros and call blocks."""
NESTED_MAX = 20
"""Of them within each other, as Python allows loops: jinja goes through a block once for each around it."""
NAMES_MAX = 2_000
"""Variables that a template sets: each branch copies the table of them."""
INT_BITS_MAX = 4096
"""Of a number in the source."""
_BLOCKS = (nodes.For, nodes.Macro, nodes.CallBlock)
_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Block: "block",
    nodes.Extends: "extends",
    nodes.FromImport: "import",
    nodes.Import: "import",
    nodes.Include: "include",
    nodes.ScopedEvalContextModifier: "autoescape",
}
# What a node may make in one evaluation, in bytes besides what operations count (budget.py).
_NODE_BYTES = 2
_ITEM_BYTES: dict[type[nodes.Node], int] = {nodes.List: 8, nodes.Tuple: 8, nodes.Dict: 64, nodes.Output: 8}
_OBJECT_BYTES: dict[type[nodes.Node], int] = {
    nodes.List: 56,
    nodes.Tuple: 40,
    nodes.Dict: 64,
    nodes.Call: 32,
    nodes.Filter: 32,
    nodes.Getattr: 16,
    nodes.Getitem: 16,
}


class _Weight:
    """What one turn of a block may make, without the blocks within it."""

    def __init__(self) -> None:
        self.n_bytes = 16


def check(tree: nodes.Template) -> None:
    """Raise TemplateAssertionError for what chat templates may not use, and for a tree that is too large.

    Comes first: all that follows takes time in proportion to what is checked here.
    """
    names: set[str] = set()
    cost = n_blocks = 0
    waiting: list[tuple[nodes.Node, int, int]] = [(tree, 1, 0)]
    while waiting:
        node, n_around, n_nested = waiting.pop()
        cost += n_around
        if isinstance(node, _BLOCKS):
            n_blocks += 1
            n_nested += 1
        if isinstance(node, nodes.Name) and node.ctx != "load":
            names.add(node.name)
        is_large = cost > COST_MAX or n_blocks > BLOCKS_MAX or n_nested > NESTED_MAX
        if is_large or len(names) > NAMES_MAX:
            raise TemplateAssertionError("it is too long, or nested too deeply", node.lineno)
        _check_kind(node)
        deeper = n_around + isinstance(node, nodes.Stmt)
        waiting.extend((child, deeper, n_nested) for child in node.iter_child_nodes())


def _check_kind(node: nodes.Node) -> None:
    word = _REFUSED.get(type(node))
    if word is not None:
        raise TemplateAssertionError(f"chat templates cannot use {{% {word} %}}", node.lineno)
    if (
        isinstance(node, nodes.Const)
        and isinstance(node.value, int)
        and node.value.bit_length() > INT_BITS_MAX
    ):
        raise TemplateAssertionError(f"a number of more than {INT_BITS_MAX} bits", node.lineno)


def put_ticks(tree: nodes.Template) -> None:
    """Make each turn of a loop and each call of a macro count what it may make (Budget.tick), in place."""
    turns: list[tuple[nodes.Node, _Weight]] = []
    waiting: list[tuple[nodes.Node, _Weight]] = [(tree, _Weight())]
    while waiting:
        node, weight = waiting.pop()
        weight.n_bytes += _bytes_of(node)
        inner = weight
        if isinstance(node, _BLOCKS):
            inner = _Weight()
            turns.append((node, inner))
        for field, value in node.iter_fields():
            owner = inner if field == "body" else weight
            children = value if isinstance(value, list) else (value,)
            waiting.extend((child, owner) for child in children if isinstance(child, nodes.Node))
    for block, inner in turns:
        _put_tick(block, inner.n_bytes)


def _bytes_of(node: nodes.Node) -> int:
    kind = type(node)
    if getattr(node, "dyn_args", None) is not None or getattr(node, "dyn_kwargs", None) is not None:
        return LOOK_BYTES  # `f(*items)` copies any number of items
    n_items = sum(1 for _ in node.iter_child_nodes()) if kind in _ITEM_BYTES else 0
    return _NODE_BYTES + _OBJECT_BYTES.get(kind, 0) + _ITEM_BYTES.get(kind, 0) * n_items


def _put_tick(block: nodes.Node, n_bytes: int) -> None:
    if isinstance(block, (nodes.For, nodes.Macro, nodes.CallBlock)):
        block.body.insert(0, nodes.ExprStmt(_code(f"tick({n_bytes})", block), lineno=block.lineno))
    if isinstance(block, nodes.For) and block.test is not None:
        block.test = nodes.And(_code("tick(16)", block), block.test, lineno=block.lineno)


def _code(source: str, at: nodes.Node) -> nodes.InternalName:
    """An expression of generated code. jinja's parser makes such names in the same way (free_identifier)."""
    node = object.__new__(nodes.InternalName)
    nodes.Node.__init__(node, source, lineno=at.lineno)
    return node
