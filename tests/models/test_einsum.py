import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.einsum import einsum, product

SIZES = {"B": 2, "T": 5, "S": 3, "D": 8, "H": 4, "K": 6, "G": 2, "R": 7, "F": 11}
PRODUCTS = [
    "BTD,DHK->BTHK",
    "BTHK,HKD->BTD",
    "BTD,DF->BTF",
    "BTF,FD->BTD",
    "BTD,FD->BTF",
    "BTGRK,BSGK->BGRTS",
    "BGRTS,BSGK->BTGRK",
]


def operands(equation, dtype=jnp.float32, large=1):
    """Both operands and a cotangent; `large` multiplies the first letter, so that the smaller operand is another."""
    sizes = SIZES | {equation[0]: large * SIZES[equation[0]]}
    shapes = [[sizes[letter] for letter in term] for term in equation.replace("->", ",").split(",")]
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("large", [1, 20])
@pytest.mark.parametrize("equation", PRODUCTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_equals_jnp_einsum_with_gradients(equation, large, dtype, tolerance):
    *arrays, cotangent = operands(equation, dtype, large)
    with jax.default_matmul_precision("highest"):
        expected, pull = jax.vjp(
            lambda a, b: jnp.einsum(equation, a, b), *(array.astype(jnp.float32) for array in arrays)
        )
        expected = expected, *pull(cotangent.astype(jnp.float32))
        found, pull = jax.vjp(lambda a, b: product(equation, a, b, a.dtype), *arrays)
        found = found, *pull(cotangent)
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == dtype
        np.testing.assert_allclose(np.asarray(f, np.float32), e, rtol=tolerance, atol=tolerance * np.abs(e).max())


def test_the_result_has_the_type_of_the_activations():
    x, weight = jnp.ones((1, 2, 4), jnp.bfloat16), jnp.ones((4, 4), jnp.float32)
    assert einsum("BTD,DF->BTF", x, weight).dtype == jnp.bfloat16


def test_the_gradient_of_a_float32_weight_is_not_rounded():
    x = jnp.ones((1, 300, 1), jnp.bfloat16)
    gradient = jax.grad(lambda w: einsum("BTD,DF->BTF", x, w).sum().astype(jnp.float32))(jnp.ones((1, 1)))
    assert gradient.dtype == jnp.float32 and gradient.item() == 301 - 1, "bfloat16 has no 300 + 1, but sums pass it"


@pytest.mark.parametrize("equation", PRODUCTS)
def test_all_products_multiply_in_the_type_of_the_activations(equation):
    """A float32 operand anywhere would be a product that no matrix unit takes."""
    a, b, _ = operands(equation, jnp.bfloat16)
    loss = lambda a, b: product(equation, a, b).sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(a, b.astype(jnp.float32))
    found = list(dots(jaxpr.jaxpr))
    assert len(found) >= 2
    for equation in found:
        assert [v.aval.dtype for v in equation.invars] == [jnp.bfloat16] * 2
        assert equation.outvars[0].aval.dtype == jnp.float32


def dots(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from dots(getattr(inner, "jaxpr", inner))
