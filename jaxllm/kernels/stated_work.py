"""What a hand-written kernel multiplies, written where a compiled program keeps it: in the names of its operations.

A compiler can't look into such a kernel. Most state their operations themselves; for those that do not, the caller
says it in a name scope, which reaches the program's text with forward and backward kernels alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax

_SCOPE = re.compile(r"operations\[([^\]]*)\]")


def stated_operations(of_kernel: Mapping[str, int]):
    """A name scope for a call: by a part of each kernel's name, its operations in one call on one device."""
    return jax.named_scope(f"operations[{','.join(f'{name}={count}' for name, count in of_kernel.items())}]")


def operations_in(op_name: str) -> int | None:
    """What the innermost such scope around an operation of this name states for it; None where none does."""
    scopes = list(_SCOPE.finditer(op_name))
    if not scopes:
        return None
    kernel = op_name[scopes[-1].end() :]
    stated = (item.split("=") for item in scopes[-1][1].split(","))
    return next((int(count) for name, count in stated if name in kernel), None)
