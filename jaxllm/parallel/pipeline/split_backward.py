"""A backward pass in two parts: the gradient of the inputs at once, that of the weights later.

`jax.vjp` gives both in one program. That program is traced, and each of its operations goes to the part that it is for:
what the first results need is `early`, all else is `late`; what the late part reads of the early one is `saved`. Where
a scan over layers makes both, it becomes two scans by the same rule, and what its later half reads is stacked. What
follows from operands that are there both times (casts of weights, masks) is not saved but computed again, only that.

Operations are only ever moved, so both parts together are the whole by construction. One that can't be split is early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

CALLS = ("jit", "pjit", "closed_call", "core_call")
"""Operations that only group others."""


@dataclass(frozen=True)
class Split:
    """Both parts of `function(lasting, passing) -> (first results, later results)`."""

    early: Callable[[Any, Any], tuple[Any, list[jax.Array]]]
    """(lasting, passing) -> (first results, saved)"""
    late: Callable[[Any, list[jax.Array]], Any]
    """(lasting, saved) -> later results"""
    saved: list[jax.ShapeDtypeStruct]


def split_backward(function: Callable[[Any, Any], tuple[Any, Any]], lasting: Any, passing: Any) -> Split:
    """Split a function of operands that are there both times, and others that are there the first time only.

    `lasting` and `passing` are arrays or shapes. The late part gets `lasting` again, with the same values.
    """
    closed, (first, later) = jax.make_jaxpr(function, return_shape=True)(lasting, passing)
    first_tree, later_tree = jax.tree.structure(first), jax.tree.structure(later)
    closed = _without_calls(closed)
    jaxpr, constants = closed.jaxpr, dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    firsts, laters = jaxpr.outvars[: first_tree.num_leaves], jaxpr.outvars[first_tree.num_leaves :]
    lasts = {*constants, *jaxpr.invars[: jax.tree.structure(lasting).num_leaves]}
    cut = _cut(jaxpr, firsts, laters, lasting=lasts, at_hand=lasts)

    def early(lasting, passing):
        values = constants | dict(zip(jaxpr.invars, jax.tree.leaves((lasting, passing)), strict=True))
        _run(cut.early, values)
        return jax.tree.unflatten(first_tree, _read(firsts, values)), _read(cut.saved, values)

    def late(lasting, saved):
        values = constants | dict(zip(jaxpr.invars, jax.tree.leaves(lasting), strict=False))
        values |= dict(zip(cut.saved, saved, strict=True))
        _run(cut.late, values)
        return jax.tree.unflatten(later_tree, _read(laters, values))

    return Split(early, late, [jax.ShapeDtypeStruct(name.aval.shape, name.aval.dtype) for name in cut.saved])


@dataclass(eq=False)
class _Stacked:
    """What the early half of a scan saves for the late one; a name, as a variable is."""

    aval: Any


Name = Var | _Stacked
Values = dict[Name, Any]


@dataclass(frozen=True)
class _Step:
    """One operation of a part."""

    reads: tuple[Name, ...]
    makes: tuple[Name, ...]
    run: Callable[[Values], Iterable[Any]]


@dataclass(frozen=True)
class _Cut:
    early: tuple[_Step, ...]
    late: tuple[_Step, ...]
    saved: tuple[Name, ...]


def _cut(jaxpr: Jaxpr, firsts, laters, *, lasting: set[Name], at_hand: set[Name]) -> _Cut:
    """Both parts of a program. What follows from `lasting` is computed again rather than saved; the late part has
    `at_hand`, whether saved or not."""
    follows = _followers(jaxpr, lasting)
    live = _needed([*firsts, *laters], jaxpr)
    early, late_halves = [], {}
    needed = _names(firsts)
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if needed.isdisjoint(eqn.outvars) and not eqn.effects:  # one that prints, say, is early
            continue
        step, half = _halves(eqn, needed, live, follows)
        early.append(step)
        needed |= set(step.reads)
        if half is not None:
            late_halves[i] = half
    made_early = {name for step in early for name in step.makes}

    late, needed = [], dict.fromkeys(_ordered(laters))
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        step = late_halves.get(i) or _whole(eqn)
        again = made_early.isdisjoint(step.makes) or follows.issuperset(step.makes)
        if again and not needed.keys().isdisjoint(step.makes):
            late.append(step)
            needed |= dict.fromkeys(step.reads)
    made_late = {name for step in late for name in step.makes}
    saved = tuple(name for name in needed if name not in made_late and name not in at_hand)
    return _Cut(tuple(reversed(early)), tuple(reversed(late)), saved)


def _halves(eqn: JaxprEqn, needed: set[Name], live: set[Name], follows: set[Name]) -> tuple[_Step, _Step | None]:
    """The early step of an operation of whose results some are needed, and the late one where it can be split."""
    if eqn.primitive.name != "scan":
        return _whole(eqn), None
    return _Scan(eqn, needed, live, follows).halves()


class _Scan:
    """A scan whose results are wanted at different times."""

    def __init__(self, eqn: JaxprEqn, needed: set[Name], live: set[Name], follows: set[Name]) -> None:
        self.eqn, self.params = eqn, eqn.params
        self.closed = _without_calls(eqn.params["jaxpr"])
        self.body = self.closed.jaxpr
        self.num_consts, self.num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
        ends = (self.num_consts, self.num_consts + self.num_carry)
        self.outer = [eqn.invars[: ends[0]], eqn.invars[ends[0] : ends[1]], eqn.invars[ends[1] :]]
        self.inner = [self.body.invars[: ends[0]], self.body.invars[ends[0] : ends[1]], self.body.invars[ends[1] :]]
        self.early = {i for i, name in enumerate(eqn.outvars) if name in needed}
        self._close_over_carries()
        self.late = {i for i, name in enumerate(eqn.outvars) if name in live and i not in self.early}
        # A carry that is only there to feed what comes late goes with it.
        self._close_late()
        self.follows = follows

    def _close_over_carries(self) -> None:
        """A result that comes early needs every carry that it depends on early."""
        while True:
            read = _needed([self.body.outvars[i] for i in self.early], self.body)
            more = {i for i, name in enumerate(self.inner[1]) if name in read} - self.early
            if not more:
                return
            self.early |= more

    def _close_late(self) -> None:
        while True:
            read = _needed([self.body.outvars[i] for i in self.late], self.body)
            more = {i for i, name in enumerate(self.inner[1]) if name in read} - self.early - self.late
            if not more:
                return
            self.late |= more

    def halves(self) -> tuple[_Step, _Step | None]:
        if not self.late:
            return _whole(self.eqn), None
        given = [*zip(self.outer[0], self.inner[0], strict=True), *zip(self.outer[2], self.inner[2], strict=True)]
        lasting = {inner for outer, inner in given if isinstance(outer, Literal) or outer in self.follows}
        carried_late = {name for i, name in enumerate(self.inner[1]) if i in self.late}
        constants = set(self.body.constvars)
        outputs = self.body.outvars
        cut = _cut(
            self.body,
            [outputs[i] for i in sorted(self.early)],
            [outputs[i] for i in sorted(self.late)],
            lasting=lasting | constants,
            at_hand={inner for _, inner in given} | carried_late | constants,
        )
        length = self.params["length"]
        stacked = tuple(
            _Stacked(jax.ShapeDtypeStruct((length, *name.aval.shape), name.aval.dtype)) for name in cut.saved
        )
        early = self._half(cut.early, sorted(self.early), (), (), cut.saved, stacked)
        late = self._half(cut.late, sorted(self.late), cut.saved, stacked, (), ())
        return early, late

    def _half(self, steps, results: list[int], given, given_outside, saved, saved_outside) -> _Step:
        """A scan that makes some of the results, and what the other half saved or will read."""
        carries = [i for i in results if i < self.num_carry]
        ys = [i for i in results if i >= self.num_carry]
        wanted = _names([self.body.outvars[i] for i in results])
        read = wanted | {name for step in steps for name in step.reads} | set(saved)
        consts = [pair for pair in zip(self.outer[0], self.inner[0], strict=True) if pair[1] in read]
        xs = [pair for pair in zip(self.outer[2], self.inner[2], strict=True) if pair[1] in read]
        xs += zip(given_outside, given, strict=True)
        init = [(self.outer[1][i], self.inner[1][i]) for i in carries]
        constants = dict(zip(self.body.constvars, self.closed.consts, strict=True))
        outside, inside = (lambda pairs: [o for o, _ in pairs]), (lambda pairs: [i for _, i in pairs])

        def run(values: Values) -> list[Any]:
            fixed = constants | dict(zip(inside(consts), _read(outside(consts), values), strict=True))

            def body(carry, slices):
                here = fixed | dict(zip(inside(init), carry, strict=True)) | dict(zip(inside(xs), slices, strict=True))
                _run(steps, here)
                outputs = self.body.outvars
                made = _read([outputs[i] for i in ys], here) + _read(saved, here)
                return _read([outputs[i] for i in carries], here), made

            settings = {name: self.params[name] for name in ("length", "reverse", "unroll")}
            carry, made = jax.lax.scan(body, _read(outside(init), values), _read(outside(xs), values), **settings)
            return [*carry, *made]

        reads = tuple(_ordered([*outside(consts), *outside(init), *outside(xs)]))
        makes = tuple(self.eqn.outvars[i] for i in [*carries, *ys]) + tuple(saved_outside)
        return _Step(reads, makes, run)


def _whole(eqn: JaxprEqn) -> _Step:
    reads = tuple(_ordered(eqn.invars))
    single = _empty().replace(invars=reads, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    function = jaxpr_as_fun(ClosedJaxpr(single, ()))
    return _Step(reads, tuple(eqn.outvars), lambda values: function(*_read(reads, values)))


@cache
def _empty() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def _without_calls(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program with every call replaced by what it calls."""

    def run(jaxpr: Jaxpr, consts, operands) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in CALLS:
                inner = eqn.params.get("jaxpr") or eqn.params["call_jaxpr"]
                made = run(inner.jaxpr, inner.consts, _read(eqn.invars, values))
            else:
                made = _whole(eqn).run(values)
            values |= dict(zip(eqn.outvars, made, strict=True))
        return _read(jaxpr.outvars, values)

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *operands: run(closed.jaxpr, closed.consts, operands))(*shapes)


def _run(steps: Iterable[_Step], values: Values) -> None:
    for step in steps:
        values |= dict(zip(step.makes, step.run(values), strict=True))


def _read(names: Iterable[Any], values: Values) -> list[Any]:
    return [name.val if isinstance(name, Literal) else values[name] for name in names]


def _ordered(names: Iterable[Any]) -> list[Name]:
    return list(dict.fromkeys(name for name in names if not isinstance(name, Literal)))


def _names(names: Iterable[Any]) -> set[Name]:
    return set(_ordered(names))


def _followers(jaxpr: Jaxpr, lasting: set[Name]) -> set[Name]:
    """`lasting`, and what is computed from nothing else."""
    follows = set(lasting)
    for eqn in jaxpr.eqns:
        if follows.issuperset(_ordered(eqn.invars)):
            follows |= set(eqn.outvars)
    return follows


def _needed(results: Iterable[Any], jaxpr: Jaxpr) -> set[Name]:
    """Every variable that some results depend on, themselves included; a scan needs all it reads."""
    needed = _names(results)
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed |= set(_ordered(eqn.invars))
    return needed
