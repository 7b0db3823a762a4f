"""Exercise: see what a trained network looks at, and what it would like to see.

    python 04_VGG/exercises/ex02_feature_visualization.py

trains a small VGG on the generated shapes (about two minutes) and, once the tests pass, draws
where it looks (runs/exercises/04_grad_cam.png) and its ideal images (04_ideals.png beside it).
"""

import torch
from torch.nn import functional as F

import utils
from utils.data_loaders import load_arrays
from utils.visualization import plot_image_grid
from vgg_paper import VGG, VGGConfig, loss_function


def maps_and_gradients(model, x, labels, layer):
    """What ``layer`` gives for the images, and how the logits of the labels change with it.

    Args:
        x: (B, 3, H, W). labels: (B,). layer: a name such as "relu3_2".

    Returns:
        maps and gradients, both (B, C, h, w).
    """
    # TODO: model.features_at gives the layer and "fc8" in one pass; torch.autograd.grad
    raise NotImplementedError(
        'model.features_at gives the layer and "fc8" in one pass; torch.autograd.grad'
    )


def grad_cam(maps, gradients):
    """Where the evidence for the class is (eqs. 4.22 and 4.23).

    Args:
        maps, gradients: (B, C, h, w).

    Returns:
        (B, h, w), nothing below zero.
    """
    # TODO: a weight for each map, the weighted sum of the maps, its positive part
    raise NotImplementedError(
        "a weight for each map, the weighted sum of the maps, its positive part"
    )


def climb(model, x, labels, steps, lr, decay):
    """Change the images so that the logits of the labels rise (eq. 4.24).

    Args:
        x: (B, 3, H, W), where to start; is not changed. labels: (B,).
        lr: length of a step. decay: how strongly images are drawn to zero.

    Returns:
        (B, 3, H, W).
    """
    x = x.detach().clone()
    for _ in range(steps):
        # TODO: the gradient of the chosen logits with respect to x; then eq. 4.24
        raise NotImplementedError(
            "the gradient of the chosen logits with respect to x; then eq. 4.24"
        )
    return x


def main():
    data = load_arrays("shapes")
    x, y = torch.from_numpy(data.x_train) - 0.5, torch.from_numpy(data.y_train)
    torch.manual_seed(0)
    config = VGGConfig("A", True, width=16, hidden=64, classes=10, image_size=32, dropout=0.0)
    model = VGG(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(6):
        for index in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = loss_function(model, (x[index], y[index]))
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.eval()

    images, labels = torch.from_numpy(data.x_test[:16]) - 0.5, torch.from_numpy(data.y_test[:16])
    where = grad_cam(*maps_and_gradients(model, images, labels, "relu3_2"))  # -> (16, 8, 8)
    where = F.interpolate(where[:, None], size=32, mode="bilinear")
    where = where / where.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)
    lit = (images + 0.5) * (0.2 + 0.8 * where)  # what does not count is dark
    folder = utils.ROOT / "runs" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    rows = torch.stack([images + 0.5, lit], dim=1).reshape(-1, 3, 32, 32)
    titles = [t for label in labels for t in (data.classes[label], "")]
    plot_image_grid(rows, titles=titles, path=folder / "04_grad_cam.png")
    ideals = climb(model, torch.zeros(10, 3, 32, 32), torch.arange(10), 100, 0.05, 0.1)
    plot_image_grid((ideals + 0.5).clamp(0, 1), titles=data.classes, columns=5,
                    path=folder / "04_ideals.png")  # fmt: skip
    print(f"two pictures in {folder}")


if __name__ == "__main__":
    main()
