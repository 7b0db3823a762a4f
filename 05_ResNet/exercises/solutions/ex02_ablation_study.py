"""Solution: the degradation of plain networks, and the deeper solution that exists all the same.

    python 05_ResNet/exercises/ex02_ablation_study.py

trains plain-20, plain-56, ResNet-20 and ResNet-56 on the handwritten digits, once the tests pass,
prints their training and test errors and draws the four curves (runs/exercises/05_degradation.png).
About two minutes on one core.
"""

import torch

import utils
from cifar_resnet_paper import (
    CifarResNet,
    ResNetConfig,
    loss_function,
    paper_optimizer,
    paper_schedule,
)
from utils.data_loaders import load_arrays
from utils.visualization import plot_loss_curves

BATCH = 32


@torch.no_grad()
def hand_on(block):
    """Change a block's weights and statistics so that, in eval mode, y = x for every x >= 0.

    Args:
        block: a BasicBlock with equal input and output channels and stride 1. Whether it has its
            shortcut says ``block.residual``.
    """
    if block.residual:
        # --- your code: two tensors decide what the branch adds
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        # --- end
        return
    for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        # --- your code: a 3x3 convolution that copies, and a normalisation that changes nothing
        conv.weight.zero_()
        channels = torch.arange(conv.out_channels)
        conv.weight[channels, channels, 1, 1] = 1
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        norm.weight.fill_((1 + norm.eps) ** 0.5)
        norm.bias.zero_()
        # --- end


def deepen(model, depth):
    """A deeper CifarResNet that computes, in eval mode, what ``model`` does.

    Each stage keeps the shallow network's blocks, in their places, and then hands on.

    Args:
        model: a CifarResNet. depth: 6n + 2, larger than its own.
    """
    config = ResNetConfig(depth, model.config.residual, model.config.classes, model.config.channels)
    deep = CifarResNet(config).to(next(model.parameters())).eval()
    # --- your code: copy conv1, bn1, fc and the blocks that there are; the others hand on
    for name, part in model.named_children():
        if not name.startswith("layer"):
            getattr(deep, name).load_state_dict(part.state_dict())
            continue
        for i, block in enumerate(getattr(deep, name)):
            if i < len(part):
                block.load_state_dict(part[i].state_dict())
            else:
                hand_on(block)
    # --- end
    return deep


def train(config, data, epochs):
    """Train with the paper's recipe; returns the losses and the two errors at the end."""
    torch.manual_seed(0)
    model = CifarResNet(config)
    mean = torch.from_numpy(data.x_train.mean(axis=0))
    x, y = torch.from_numpy(data.x_train) - mean, torch.from_numpy(data.y_train)
    optimizer, losses = paper_optimizer(model.parameters()), []
    steps = epochs * (len(x) // BATCH)
    factor = paper_schedule(steps, config.depth)
    for step in range(steps):
        at = step % (len(x) // BATCH)
        if at == 0:
            order = torch.randperm(len(x))
        index = order[BATCH * at : BATCH * (at + 1)]
        optimizer.param_groups[0]["lr"] = 0.1 * factor(step)
        optimizer.zero_grad()
        loss = loss_function(model, (x[index], y[index]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    errors = []
    for images, labels in ((x, y), (torch.from_numpy(data.x_test) - mean, data.y_test)):
        labels = torch.as_tensor(labels)
        with torch.no_grad():
            guesses = torch.cat([model(part).argmax(dim=1) for part in images.split(500)])
        errors.append((guesses != labels).float().mean().item())
    return losses, *errors


def main():
    data, curves = load_arrays("digits"), {}
    for residual in (False, True):
        for depth in (20, 56):
            name = f"{'ResNet' if residual else 'plain'}-{depth}"
            config = ResNetConfig(depth, residual, channels=1)
            curves[name], on_train, on_test = train(config, data, epochs=20)
            print(f"{name:>10}: training error {on_train:.3f}, test error {on_test:.3f}")
    folder = utils.ROOT / "runs" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "05_degradation.png"
    plot_loss_curves(curves, title="plain and residual networks", smooth=0.9, path=path)
    print(f"the curves are in {path}")


if __name__ == "__main__":
    main()
