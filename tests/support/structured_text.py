"""Runs the sample PLC code: a function block in structured text, parsed by an independent grammar, cycle by cycle.

Covers what `deploy/plc` uses: assignments, IF, R_TRIG, TON and the operators below. Anything else fails the test.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import tree_sitter
import tree_sitter_iec61131_3_st

Value: TypeAlias = bool | int | float | str

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_iec61131_3_st.language()))
_OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "AND": lambda left, right: bool(left) and bool(right),
    "OR": lambda left, right: bool(left) or bool(right),
    "=": operator.eq,
    "<>": operator.ne,
    "+": operator.add,
}
_START: dict[str, Value] = {"BOOL": False, "UDINT": 0, "UINT": 0, "TIME": 0.0, "STRING": ""}


@dataclass(slots=True)
class Ton:
    """The standard's on-delay timer: Q once IN was true for PT without a break."""

    q: bool = False
    since: float | None = None

    def __call__(self, now: float, inputs: dict[str, Value]) -> None:
        if not inputs["IN"]:
            self.since = None
        elif self.since is None:
            self.since = now
        self.q = self.since is not None and now - self.since >= float(inputs["PT"])


@dataclass(slots=True)
class RTrig:
    """The standard's rising-edge detector."""

    q: bool = False
    before: bool = False

    def __call__(self, now: float, inputs: dict[str, Value]) -> None:  # noqa: ARG002 - called like a timer
        self.q = bool(inputs["CLK"]) and not self.before
        self.before = bool(inputs["CLK"])


@dataclass(slots=True)
class FunctionBlock:
    """One instance; `variables` are its inputs, outputs and locals, `sections` who is which."""

    variables: dict[str, Value] = field(default_factory=dict)
    blocks: dict[str, Ton | RTrig] = field(default_factory=dict)
    sections: dict[str, list[str]] = field(default_factory=dict)
    body: list[tree_sitter.Node] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> FunctionBlock:
        """Parse the one function block in `path`."""
        # the grammar does not know the standard's length of a string
        source = re.sub(r"STRING\[\d+\]", "STRING", path.read_text())
        tree = _PARSER.parse(source.encode())
        assert not tree.root_node.has_error, tree.root_node
        (declaration,) = [node for node in tree.root_node.children if node.type == "function_block_declaration"]
        block = cls()
        for section in declaration.children:
            if section.type.startswith("var_"):
                block._declare(section)
        block.body = declaration.children_by_field_name("body")
        return block

    def cycle(self, now: float, **inputs: Value) -> dict[str, Value]:
        """Run once at `now` seconds; return the outputs."""
        assert set(inputs) <= set(self.sections["var_input"]), inputs
        self.variables |= inputs
        self._run(self.body, now)
        return {name: self.variables[name] for name in self.sections["var_output"]}

    def _declare(self, section: tree_sitter.Node) -> None:
        for variable in section.children:
            if variable.type != "variable_declaration":
                continue
            name, kind = _text(variable, "names"), _text(variable, "type")
            self.sections.setdefault(section.type, []).append(name)
            if kind in {"TON", "R_TRIG"}:
                self.blocks[name] = Ton() if kind == "TON" else RTrig()
                continue
            start = variable.child_by_field_name("initial_value")
            self.variables[name] = _START[kind] if start is None else self._value(start)

    def _run(self, statements: list[tree_sitter.Node], now: float) -> None:
        for statement in statements:
            match statement.type:
                case "assignment_statement":
                    name = _text(statement, "left")
                    value = self._value(_child(statement, "right"))
                    assert type(value) is type(self.variables[name]), f"{name} := {value!r}"
                    self.variables[name] = value % 2**32 if type(value) is int else value
                case "invocation_statement":
                    call = statement.named_children[0]
                    arguments = _child(call, "arguments").named_children
                    inputs = {_text(argument, "name"): self._value(_child(argument, "value")) for argument in arguments}
                    self.blocks[_text(call, "function")](now, inputs)
                case "if_statement":
                    self._run_if(statement, now)
                case other:
                    assert other in {"empty_statement", "comment"}, statement

    def _run_if(self, statement: tree_sitter.Node, now: float) -> None:
        if self._value(_child(statement, "condition")):
            self._run(statement.children_by_field_name("consequence"), now)
            return
        for clause in statement.children:
            if clause.type == "elsif_clause" and self._value(_child(clause, "condition")):
                self._run(clause.children_by_field_name("body"), now)
                return
            if clause.type == "else_clause":
                self._run(clause.children_by_field_name("body"), now)

    def _value(self, node: tree_sitter.Node) -> Value:  # noqa: PLR0911 - one for each kind of expression
        text = (node.text or b"").decode()
        match node.type:
            case "identifier":
                return self.variables[text]
            case "boolean_literal":
                return text == "TRUE"
            case "integer_literal":
                return int(text.removeprefix("16#"), 16 if text.startswith("16#") else 10)
            case "string_literal":
                return text.strip("'")
            case "time_literal":
                number, unit = re.fullmatch(r"T#(\d+)(ms|s)", text).groups()  # type: ignore[union-attr] # fails the test
                return float(number) / (1000 if unit == "ms" else 1)
            case "unary_expression":
                assert text.startswith("NOT ")
                return not self._value(_child(node, "operand"))
            case "member_access_expression":
                assert _text(node, "member") == "Q"
                return self.blocks[_text(node, "object")].q
            case "parenthesized_expression":
                return self._value(node.named_children[0])
            case "binary_expression":
                left, right = _child(node, "left"), _child(node, "right")
                sign = next((c.text or b"").decode() for c in node.children if c not in (left, right))
                return _OPERATORS[sign](self._value(left), self._value(right))
        raise AssertionError(f"not known here: {node.type} {text}")


def _child(node: tree_sitter.Node, name: str) -> tree_sitter.Node:
    found = node.child_by_field_name(name)
    assert found is not None, (node.type, name)
    return found


def _text(node: tree_sitter.Node, name: str) -> str:
    return (_child(node, name).text or b"").decode()
