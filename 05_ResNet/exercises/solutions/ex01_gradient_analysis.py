"""Solution: how gradients change with depth, in plain and in residual networks.

    python 05_ResNet/exercises/ex01_gradient_analysis.py

prints, once the tests pass, by what factor the gradient grows or shrinks with each block on its way
back, in fresh networks of several depths: plain and residual, with batch normalisation and without.
"""

import torch
from torch import nn

import utils  # noqa: F401  (puts the chapters on the import path)
from cifar_resnet_paper import BasicBlock, CifarResNet, ResNetConfig, loss_function


def gradient_norms(model, x, targets):
    """The norm of the gradient of the loss with respect to the output of every block.

    Args:
        model: a CifarResNet, left in the mode it is in. x: (B, C, H, W). targets: (B,).

    Returns:
        dict: name of the block ("layer1.0", ...) -> norm (a number), from the first to the last.
    """
    outputs, hooks = {}, []
    # --- your code: a forward hook on each BasicBlock that keeps its output, and its gradient
    for name, block in model.named_modules():
        if isinstance(block, BasicBlock):

            def keep(_, args, y, name=name):
                y.retain_grad()  # only leaves keep their gradient unasked
                outputs[name] = y

            hooks.append(block.register_forward_hook(keep))
    # --- end
    loss_function(model, (x, targets)).backward()
    for hook in hooks:
        hook.remove()
    # --- your code: the norm of each output's gradient, as plain numbers
    return {name: y.grad.norm().item() for name, y in outputs.items()}
    # --- end


def growth_per_block(norms):
    """The factor a gradient is multiplied by for each block that it goes BACK, on average.

    With norms n_1 (first block) to n_k (last), k - 1 equal factors lead from n_k to n_1; below 1
    the gradient vanishes on its way to the input, above 1 it explodes.
    """
    n = list(norms.values())
    # --- your code: the geometric mean of the k - 1 ratios of neighbours
    return (n[0] / n[-1]) ** (1 / (len(n) - 1))
    # --- end


def without_normalisation(model):
    """The same network with every batch normalisation taken out; for comparison."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def main():
    torch.manual_seed(0)
    x, targets = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    print("growth of the gradient with each block back; fresh networks, 32 random images")
    print("depth     plain  residual   without BN: plain  residual")
    for depth in (20, 32, 56):
        row = []
        for change in (nn.Module.train, without_normalisation):
            for residual in (False, True):
                model = change(CifarResNet(ResNetConfig(depth, residual)).train())
                row.append(growth_per_block(gradient_norms(model, x, targets)))
        print(f"{depth:>5}  {row[0]:8.3f}  {row[1]:8.3f}  {row[2]:18.3f}  {row[3]:8.3f}")


if __name__ == "__main__":
    main()
