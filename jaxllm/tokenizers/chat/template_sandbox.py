"""Runs the chat templates of other people's files: Jinja in its sandbox, with bounds on what it may use.

Jinja's sandbox keeps a template from Python's internals; what it leaves open is how long a template runs and how much
it makes. So the template is rewritten before it is compiled, such that every repetition and every new string, list and
dict passes through a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from jaxllm.tokenizers.chat.marked_text import GENERATED, spread
from jaxllm.tokenizers.chat.template_budget import current
from jaxllm.tokenizers.chat.template_strings import (
    call_method,
    concatenate,
    format_time,
    operate,
    template_filters,
    text_of_output,
)

FILE_NAME = "<chat template>"

_CALLABLE = (Macro, LoopContext, BlockReference, Joiner, Undefined)


class Refusal(TemplateError):
    """The template itself says, by raise_exception, that the conversation does not fit."""


class _Namespace(Namespace):
    """Jinja's, but it can't be used to store or print anything internal."""

    def __init__(*args: Any, **kwargs: Any):
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        # Namespaces may hold each other; the text of one must not be the text of all of them.
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace can't have an attribute {name!r}")


def _dict(*args: Any, **kwargs: Any) -> dict:
    return current().container(dict(*args, **kwargs))


def _raise_exception(message: Any) -> None:
    raise Refusal(str(message))


class _Generation(Extension):
    """The block {% generation %} ... {% endgeneration %} around what the assistant says."""

    tags = {"generation"}

    def parse(self, parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return spread(caller(), GENERATED)


class _Counting(NodeTransformer):
    """Puts a call to the environment into whatever repeats, concatenates, or makes a list, tuple or dict."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        node = self._with_step(node)
        if node.test is not None:
            node.test = nodes.And(_call("step", nodes.Const(1), node), node.test, lineno=node.lineno)
        return node

    def _with_step(self, node: Any) -> Any:
        self.generic_visit(node)
        # What the body writes is not looked at again: its length counts as steps, a thousand characters each.
        constant = sum(len(data.data) for body in node.body for data in body.find_all(nodes.TemplateData))
        call = nodes.ExprStmt(_call("step", nodes.Const(1 + constant // 1000), node), lineno=node.lineno)
        node.body = [call, *node.body]
        return node

    visit_Macro = visit_CallBlock = visit_Block = _with_step

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _call("sliced", node, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call("concatenated", nodes.Tuple(node.nodes, "load", lineno=node.lineno), node)

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Call:
        self.generic_visit(node)
        return _call("contained", node, node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Tuple | nodes.Call:
        self.generic_visit(node)
        return _call("contained", node, node) if node.ctx == "load" else node

    def _refuse(self, node: nodes.Node) -> None:
        name = type(node).__name__.lower()
        raise TemplateSyntaxError(f"a chat template can't use {name!r}: it has no other files", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> None:
        raise TemplateSyntaxError("a chat template can't use 'autoescape': it is no web page", node.lineno)


def _call(name: str, argument: nodes.Expr, at: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), [argument], [], None, None, lineno=at.lineno)


@pass_context
def _finalize(_context: Any, value: Any) -> str:
    # That it wants the context keeps Jinja from computing constant expressions, huge ones too, while it compiles.
    return text_of_output(value)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates; a budget has to be in use while one is rendered. `now` is the clock of strftime_now."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})
    concat = staticmethod(concatenate)

    def __init__(self, now: Callable[[], datetime]):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=[_Generation, loopcontrols],
        )
        self.filters = template_filters()
        self.globals = {
            "range": safe_range,
            "dict": _dict,
            "namespace": _Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": lambda pattern: format_time(now(), pattern),
        }
        self._functions = set(map(id, self.globals.values()))

    def prepare(self, source: str) -> tuple[Template, bool]:
        """The compiled template, and whether it has generation blocks.

        Raises what Jinja and Python raise for a template that they can't compile.
        """
        tree = _Counting().visit(self.parse(source))
        marking = any(tree.find_all(nodes.ExtensionAttribute))
        return Template.from_code(self, self.compile(tree, filename=FILE_NAME), self.globals), marking

    def step(self, count: int) -> bool:
        current().step(count)
        return True

    def concatenated(self, parts: tuple) -> str:
        current().step()
        return concatenate(parts)

    def sliced(self, value: Any) -> Any:
        if isinstance(value, str):
            current().string(len(value))
        elif isinstance(value, list | tuple):
            current().step(len(value))
        return value

    def contained(self, value: Any) -> Any:
        return current().container(value)

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        return operate(operator, left, right)

    def call(__self, __context, __obj, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        if isinstance(__obj, MethodType) and isinstance(__obj.__self__, TemplateEnvironment):
            return __obj(*args)
        current().step()
        bound = isinstance(__obj, BuiltinMethodType | MethodType)
        if bound and not isinstance(__obj.__self__, LoopContext | Cycler | _Generation):
            # Jinja adds these to calls in loops and blocks, for functions that want the context.
            given = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
            return call_method(__self, __obj, args, given)
        known = bound or isinstance(__obj, _CALLABLE) or id(__obj) in __self._functions
        if callable(__obj) and not known:
            raise SecurityError(f"a template can't call a {type(__obj).__name__}")
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """Formatting is done by call_method, which looks at the widths first."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__} is not allowed")
