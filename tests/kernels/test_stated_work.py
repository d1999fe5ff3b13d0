"""Operations that travel in the names of a program's instructions."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.kernels.stated_work import operations_in, stated_operations


@pytest.mark.parametrize(
    "name, expected",
    [
        ("jit(step)/operations[fwd=5,dq=7]/splash_fwd/pallas_call", 5),
        ("jit(step)/transpose(jvp(operations[fwd=5,dq=7]))/splash_dq/pallas_call", 7),
        ("operations[fwd=5]/body/operations[fwd=6]/fwd", 6),
        ("operations[fwd=5]/other", None),
        ("jit(fwd)/dot_general", None),
    ],
)
def test_the_innermost_scope_states_the_work_of_its_kernels(name, expected):
    assert operations_in(name) == expected


def test_a_scope_reaches_the_programs_text_forward_and_backward():
    def loss(x):
        with stated_operations({"sin": 11, "cos": 13}):
            return jnp.sin(x).sum()

    text = jax.jit(jax.grad(loss)).lower(jnp.ones(4)).compile().as_text()
    assert {operations_in(part) for part in text.split('"') if "operations[" in part} >= {13}
