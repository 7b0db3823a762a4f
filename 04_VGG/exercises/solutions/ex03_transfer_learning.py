"""Solution: give a trained network another task. You change a working model.

    python 04_VGG/exercises/ex03_transfer_learning.py

trains a VGG on red and blue shapes (about two minutes) and then, once the tests pass, lets it learn
five classes of green and blue shapes from 50 images: from scratch, and with its features kept.
"""

import torch
from torch import nn

import utils  # noqa: F401  (puts the chapters on the import path)
from utils.data_loaders import load_arrays
from vgg_paper import VGG, VGGConfig, loss_function


def new_head(model, classes):
    """Replace fc8 by a fresh linear layer with so many outputs; all else stays. In place.

    Args:
        model: a VGG; fc8 is ``model.classifier[6]``.
    """
    # --- your code: one line
    model.classifier[6] = nn.Linear(model.classifier[6].in_features, classes)
    # --- end


def freeze_features(model):
    """Let no training change the convolutions: their parameters ask for no gradient. In place."""
    # --- your code: the parameters of model.features
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)
    # --- end


def train_mode(model):
    """Training mode for a model with frozen features: dropout on, running statistics at rest.

    Batch normalisation in training mode moves its running mean and variance with every batch that
    passes, gradient or not.
    """
    # --- your code: one part of the model trains, the other does not
    model.classifier.train()
    model.features.eval()
    # --- end


def extract(model, x):
    """What the frozen features give for images: computed once, as they never change again.

    Args:
        x: (N, 3, H, W).

    Returns:
        (N, C*h*w), what ``model.classifier`` reads, without a graph.
    """
    # --- your code: the features in eval mode, without gradients, flattened
    model.features.eval()
    with torch.no_grad():
        return model.features(x).flatten(start_dim=1)
    # --- end


def fit(model, x, y, epochs, lr=0.01):
    """Train what asks for a gradient, on batches of 32."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss_function(model, (x[index], y[index])).backward()
            optimizer.step()
    model.eval()


def accuracy(model, x, y):
    """Share of images (N, 3, H, W) whose largest logit is the label."""
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).float().mean().item()


def main():
    data = load_arrays("shapes")
    x, y = torch.from_numpy(data.x_train) - 0.5, torch.from_numpy(data.y_train)
    x_test, y_test = torch.from_numpy(data.x_test) - 0.5, torch.from_numpy(data.y_test)
    config = VGGConfig("A", True, width=16, hidden=64, classes=10, image_size=32, dropout=0.0)
    torch.manual_seed(0)
    model = VGG(config)
    fit(model, x, y, epochs=6)
    print(f"the first task, 10 classes: {accuracy(model, x_test, y_test):.1%}")

    # The second task: red and green change places, and the class is the shape alone.
    few, few_y = x[:50, [1, 0, 2]], y[:50] // 2
    x_test, y_test = x_test[:, [1, 0, 2]], y_test // 2
    scratch = VGG(config)
    new_head(scratch, 5)
    fit(scratch, few, few_y, epochs=60)
    print(f"50 images, from scratch: {accuracy(scratch, x_test, y_test):.1%}")

    new_head(model, 5)
    freeze_features(model)
    read = extract(model, few)  # once, instead of in each of 60 epochs
    train_mode(model)
    head = model.classifier
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(60):
        for index in torch.randperm(len(read)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(read[index]), few_y[index]).backward()
            optimizer.step()
    model.eval()
    print(f"50 images, features kept: {accuracy(model, x_test, y_test):.1%}")


if __name__ == "__main__":
    main()
