"""Newton's method without a Hessian: logistic regression on handwritten digits.

The loss of logistic regression is convex, and with 650 weights its Hessian has 422,500 entries.
Newton's method needs none of them: each step solves `Hessian * step = -gradient` with conjugate
gradients, which ask for products of the Hessian with vectors only. A product costs a few times
what a gradient does. The loss with its gradient, and the product, are compiled into native code.
"""

import numpy as np

import hornfels as hf
from hornfels import ops
from hornfels.datasets import digits

DECAY = 1e-3


def loss(weights, x, y):
    """Mean cross-entropy and a penalty on large weights."""
    logits = ops.matmul(x, weights["kernel"]) + weights["bias"]
    fit = ops.mean(ops.logsumexp(logits, axis=-1) - ops.sum(logits * y, axis=-1))
    return fit + DECAY / 2 * ops.sum(ops.square(weights["kernel"]))


@hf.compile
def value_and_gradient(weights, x, y):
    return hf.value_and_grad(loss)(weights, x, y)


@hf.compile
def hessian_times(weights, x, y, direction):
    (product,) = hf.hessian_vector_product(lambda w: loss(w, x, y), (weights,), (direction,))
    return product


def dot(a, b):
    return sum(float(np.vdot(a[name], b[name])) for name in a)


def plus(a, b, scale):
    """`a + scale * b`, weight by weight."""
    return {name: a[name] + np.float32(scale) * b[name] for name in a}


def solve(product, gradient, limit):
    """`Hessian * step = -gradient` by conjugate gradients, and how many products it took."""
    step = {name: np.zeros_like(g) for name, g in gradient.items()}
    residual = search = {name: -g for name, g in gradient.items()}
    size = dot(residual, residual)
    goal = size * min(0.25, size**0.5)  # rough far from the minimum, fine close to it
    products = 0
    while products < limit:
        image = product(search)
        products += 1
        length = size / dot(search, image)
        step, residual = plus(step, search, length), plus(residual, image, -length)
        size, before = dot(residual, residual), size
        if size <= goal:
            break
        search = plus(residual, search, size / before)
    return step, products


def descend(weights, x, y, value, gradient, step):
    """Go along the step, half as far as long as that is no improvement."""
    slope = dot(gradient, step)
    for halvings in range(20):
        length = 0.5**halvings
        moved = plus(weights, step, length)
        found = value_and_gradient(moved, x, y)
        if found[0] <= value + 1e-4 * length * slope:
            return moved, *found
    return weights, value, gradient


def main(iterations=8):
    (x, labels), (x_test, labels_test) = digits.load_data()
    x, x_test = (a.reshape(len(a), -1).astype("float32") / 16 for a in (x, x_test))
    y = np.eye(10, dtype="float32")[labels]
    weights = {"kernel": np.zeros((64, 10), "float32"), "bias": np.zeros(10, "float32")}
    value, gradient = value_and_gradient(weights, x, y)
    norms = []
    for i in range(iterations):
        step, products = solve(lambda v: hessian_times(weights, x, y, v), gradient, 100)  # noqa: B023
        weights, value, gradient = descend(weights, x, y, value, gradient, step)
        norms.append(dot(gradient, gradient) ** 0.5)
        print(f"step {i + 1}: loss {value:.6f}, gradient {norms[-1]:.1e}, {products} products")
    scores = x_test @ weights["kernel"] + weights["bias"]
    accuracy = float(np.mean(scores.argmax(-1) == labels_test))
    print(f"accuracy on new digits: {accuracy:.3f}")
    return norms, accuracy


if __name__ == "__main__":
    main()
