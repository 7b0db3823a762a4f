"""Solution: a task of one's own, what guessing achieves at it, and training until it is solved.

    python 06_LSTM_GRU/exercises/ex02_sequence_tasks.py

trains an LSTM and a vanilla RNN on the multiplication problem, once the tests pass, and prints
their errors beside the two guesses. Some ten seconds.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from linear_numpy import squared_error_backward, squared_error_forward
from lstm_numpy import LSTMNetwork
from optimizers_numpy import Adam
from recurrent_network_numpy import RecurrentConfig, RNNNetwork
from recurrent_numpy import clip_by_norm


def multiplication(count, T, rng):
    """The multiplication problem: the product of two marked numbers, far apart.

    After section 5.5 of the 1997 paper. Each step is a pair: a number uniform in [0, 1], and a
    marker: 1 at two steps, 0 elsewhere. One marked step is among the first ten; the other is any of
    the first T // 2 but that one.

    Args:
        count: sequences. T: their least length, at least 20; the longest have T + T // 10 steps.

    Returns:
        x (count, T + T // 10, 2) float32, all zero after each sequence's end; lengths (count,);
        y (count,) float32.
    """
    longest = T + T // 10
    lengths = rng.integers(T, longest + 1, size=count)
    values = rng.uniform(0, 1, size=(count, longest))
    markers, y = np.zeros((count, longest)), np.zeros(count)
    for n in range(count):
        # --- your code: draw the two steps, mark them, and set y[n]
        first = rng.integers(10)
        second = rng.choice(np.delete(np.arange(T // 2), first))
        markers[n, [first, second]] = 1
        y[n] = values[n, first] * values[n, second]
        # --- end
    x = np.stack([values, markers], axis=2)  # -> (count, T + T // 10, 2)
    # --- your code: zeros after each sequence's end
    x[np.arange(longest) >= lengths[:, None]] = 0
    # --- end
    return x.astype(np.float32), lengths, y.astype(np.float32)


def guess_errors():
    """The mean squared errors of the two best guesses, exactly.

    Returns:
        the error of the best constant; and of the best guess by whoever has caught the first of the
        two numbers, but not the second.
    """
    # --- your code: two numbers, for X1 and X2 independent and uniform in [0, 1]
    mean, square = 1 / 2, 1 / 3  # of one number, and of its square
    constant = square**2 - mean**4  # the variance of the product
    one_number = square * (square - mean**2)  # E[X1² Var(X2)]: the best guess is X1 / 2
    return constant, one_number
    # --- end


def train_step(model, optimizer, x, lengths, y, limit=1.0):
    """One step on a batch, with the gradient clipped to a norm of ``limit``.

    Args:
        model: a network of level 1 with one output. optimizer: with the model's params.
        x: (B, T, 2). lengths: (B,). y: (B,).

    Returns:
        the mean squared error before the step. (The loss that is minimised is half of it.)
    """
    # --- your code: forward, squared_error (its targets are (B, 1)), backward, clip, update
    loss, cache = squared_error_forward(model.forward(x, lengths), y[:, None])
    grads = model.backward(squared_error_backward(cache))
    clip_by_norm(grads, limit)
    optimizer.step(grads)
    return 2 * loss
    # --- end


def main():
    constant, one_number = guess_errors()
    print(f"best constant {constant:.4f}; with the first number known {one_number:.4f}")
    T, steps, B = 20, 2000, 32
    x_test, lengths_test, y_test = multiplication(1000, T, np.random.default_rng(1))
    for kind in (RNNNetwork, LSTMNetwork):
        rng = np.random.default_rng(0)
        model = kind(RecurrentConfig(2, 24, 1), rng, dtype=np.float32)
        optimizer = Adam(model.params, 0.02)
        for step in range(steps):
            optimizer.lr = 0.02 * (1 - step / steps)
            error = train_step(model, optimizer, *multiplication(B, T, rng))
            if step % 400 == 0:
                print(f"{kind.__name__:>12}, step {step:>4}: mean squared error {error:.4f}")
        error = np.square(model.forward(x_test, lengths_test)[:, 0] - y_test).mean()
        print(f"{kind.__name__:>12}, on new sequences: {error:.4f}")


if __name__ == "__main__":
    main()
