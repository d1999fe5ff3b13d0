import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.einsum import einsum


@pytest.mark.parametrize(
    ("equation", "weight_shape"),
    [("BTD,DHK->BTHK", (6, 3, 4)), ("BTD,DF->BTF", (6, 5)), ("BTD,VD->BTV", (7, 6))],
)
def test_equals_jnp_einsum_with_gradients(equation, weight_shape):
    x = jax.random.normal(jax.random.key(0), (2, 3, 6))
    weight = jax.random.normal(jax.random.key(1), weight_shape)
    run = lambda f: jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(f(equation, x, w))), argnums=(0, 1))(x, weight)  # noqa: E731
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), run(einsum), run(jnp.einsum))


def test_two_contracted_axes():
    x, weight = jax.random.normal(jax.random.key(0), (2, 3, 4, 5)), jax.random.normal(jax.random.key(1), (4, 5, 6))
    np.testing.assert_allclose(
        einsum("BTHK,HKD->BTD", x, weight), jnp.einsum("BTHK,HKD->BTD", x, weight), rtol=1e-5, atol=1e-5
    )


def test_the_result_has_the_type_of_the_activations():
    x, weight = jnp.ones((1, 2, 4), jnp.bfloat16), jnp.ones((4, 4), jnp.float32)
    assert einsum("BTD,DF->BTF", x, weight).dtype == jnp.bfloat16


def test_other_products_are_refused():
    with pytest.raises(AssertionError, match="no product of activations and a weight"):
        einsum("BTD,DF->BFT", jnp.ones((1, 2, 3)), jnp.ones((3, 4)))
