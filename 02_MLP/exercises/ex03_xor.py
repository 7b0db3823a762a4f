"""Exercise: exclusive or, by thought and by training."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from mlp_numpy import MLP, MLPConfig
from optimizers_numpy import SGD

X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = np.array([[0.0], [1.0], [1.0], [0.0]])


def xor_by_hand():
    """Parameters of a 2-2-1 network with ReLU hidden units whose output is exactly XOR.

    Returns:
        dict with layers.0.weight (2, 2), layers.0.bias (2,), layers.1.weight (1, 2),
        layers.1.bias (1,).
    """
    # TODO: choose nine numbers by thought, not by training
    raise NotImplementedError("choose nine numbers by thought, not by training")


def best_linear_model():
    """Weights (2,) and bias of the straight-line model with the least squared error on XOR.

    Returns:
        weight (2,), bias (a number).
    """
    # TODO: solve the least squares problem (numpy.linalg.lstsq will do)
    raise NotImplementedError("solve the least squares problem (numpy.linalg.lstsq will do)")


def train_xor(seed, sweeps=4000, lr=0.5, momentum=0.9):
    """Train a 2-2-1 network of sigmoid units with squared error, all four cases at each step.

    The error is E = 1/2 sum (output - desired)^2. Initial weights: ``MLP``'s own.

    Returns:
        the trained MLP, and the list of E before each step.
    """
    config = MLPConfig((2, 2, 1), activation="sigmoid", output_activation="sigmoid")
    model = MLP(config, np.random.default_rng(seed))
    optimizer = SGD(model.params, lr, momentum)
    errors = []
    for _ in range(sweeps):
        # TODO: forward, E, its gradient with respect to the outputs, backward, one step
        raise NotImplementedError(
            "forward, E, its gradient with respect to the outputs, backward, one step"
        )
    return model, errors
