"""Python source for a template: jinja's own generator, with bounded and faster forms of what costs.

What changes against jinja's output, for the same result:
- `x.role` and `x["role"]` look into a dict on the spot; only other cases call the environment;
- `x.strip()` is one call (calls.invoke) and not an attribute first, then a call;
- a + b + c joins three texts at once;
- tests such as `is defined` are conditions and not calls;
- operators, slices, comparisons and `in` go through the budget where an operand may be large.

`o` is a variable of the generated functions that holds a value from one look to the next.
"""

# Visitors are named after the classes of nodes.
# ruff: noqa: N802

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

from kvatlas.tokenize.chat.templates.bounded.methods import DICT_NAMES
from kvatlas.tokenize.chat.templates.bounded.predicates import INLINE

_COMMONS = (
    "resolve = context.resolve_or_missing",
    "undefined = environment.undefined",
    "cond_expr_undefined = Undefined",
    "look, item = environment.getattr, environment.getitem",
    "budget, operators = context.budget, context.operators",
    "tick, written, concat, fit = budget.tick, budget.written, budget.joined, budget.fit",
    "plus, holds = operators.plus, operators.holds",
    "invoke, call, hashed = context.invoke, context.call, context.hashed",
    "if 0: yield None",
)
_OPERATORS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gteq": ">=",
    "lt": "<",
    "lteq": "<=",
    "in": "in",
    "notin": "not in",
}


class BoundedCodeGenerator(CodeGenerator):
    """Of one template. Expects a tree that syntax.py has checked and put ticks into."""

    def write_commons(self) -> None:
        for line in _COMMONS:
            self.writeline(line)

    def pop_assign_tracking(self, frame: Frame) -> None:
        # jinja keeps the variables of a loop for functions that ask for the context. None here does.
        if frame.loop_frame:
            self._assign_stack.pop()
        else:
            super().pop_assign_tracking(frame)

    def _write_call(self, function: str, frame: Frame, *arguments: nodes.Expr | str | None) -> None:
        self.write(f"{function}(")
        for index, argument in enumerate(arguments):
            self.write(", " if index else "")
            if isinstance(argument, nodes.Node):
                self.visit(argument, frame)
            else:
                self.write(str(argument))
        self.write(")")

    def _write_tuple(self, items: list[nodes.Expr], frame: Frame) -> None:
        self.write("(")
        for item in items:
            self.visit(item, frame)
            self.write(", ")
        self.write(")")

    # Output

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, (nodes.TemplateData, nodes.Const)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("(o if type(o := ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(") is str else written(o))")

    # Attributes, items, calls

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if node.attr in DICT_NAMES:
            self._write_call("look", frame, node.node, repr(node.attr))
        else:
            self._write_dict_look("look", node.node, repr(node.attr), frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        argument = node.arg
        if isinstance(argument, nodes.Slice):
            self._write_call("operators.cut", frame, node.node, argument.start, argument.stop, argument.step)
        elif isinstance(argument, nodes.Const) and isinstance(argument.value, str):
            self._write_dict_look("item", node.node, repr(argument.value), frame)
        else:
            self._write_call("item", frame, node.node, argument)

    def _write_dict_look(self, otherwise: str, node: nodes.Expr, key: str, frame: Frame) -> None:
        self.write(f"(o[{key}] if type(o := ")
        self.visit(node, frame)
        self.write(f") is dict and {key} in o else {otherwise}(o, {key}))")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if isinstance(node.node, nodes.Getattr):
            self.write("invoke(")
            self.visit(node.node.node, frame)
            self.write(f", {node.node.attr!r}")
        else:
            self.write("call(")
            self.visit(node.node, frame)
        self.signature(node, frame, {"caller": "caller"} if forward_caller else None)
        self.write(")")

    def visit_Test(self, node: nodes.Test, frame: Frame) -> None:
        form = INLINE.get(node.name)
        if form is None or node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
            super().visit_Test(node, frame)
            return
        before, after = form.split("{0}")
        self.write(before)
        self.visit(node.node, frame)
        self.write(after)

    # Operators

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        operands = [node.right]
        left = node.left
        while isinstance(left, nodes.Add):
            operands.append(left.right)
            left = left.left
        operands.append(left)
        self.write("plus(")
        self._write_tuple(operands[::-1], frame)
        self.write(")")

    def visit_Mul(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_call("operators.times", frame, node.left, node.right)

    def visit_Pow(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_call("operators.power", frame, node.left, node.right)

    def visit_Mod(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_call("operators.modulo", frame, node.left, node.right)

    def visit_Sub(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_binary(node, frame)

    def visit_Div(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_binary(node, frame)

    def visit_FloorDiv(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_binary(node, frame)

    def _write_binary(self, node: nodes.BinExpr, frame: Frame) -> None:
        self.write("(")
        self.visit(node.left, frame)
        self.write(f" {node.operator} ")
        self.visit(node.right, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("operators.tilde(")
        self._write_tuple(node.nodes, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            if isinstance(pair.key, nodes.Const):
                self.visit(pair.key, frame)
            else:
                self._write_call("hashed", frame, pair.key)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        first = node.ops[0]
        if len(node.ops) == 1 and first.op in ("in", "notin") and not _is_constant(first.expr):
            self.write("(not " if first.op == "notin" else "(")
            self._write_call("holds", frame, node.expr, first.expr)
            self.write(")")
            return
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        # A comparison with a constant ends at the constant's end.
        is_cheap = len(operands) == 2 and any(map(_is_constant, operands))
        self.write("(")
        for index, operand in enumerate(operands):
            self.write(f" {_OPERATORS[node.ops[index - 1].op]} " if index else "")
            if is_cheap or _is_constant(operand):
                self.visit(operand, frame)
            else:
                self._write_call("fit", frame, operand)
        self.write(")")


def _is_constant(node: nodes.Expr) -> bool:
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)
