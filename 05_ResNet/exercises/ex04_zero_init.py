"""Exercise: begin with blocks that do nothing: zeros in each block's last batch normalisation."""

import torch

import cifar_resnet_paper
import resnet_paper
import utils  # noqa: F401  (puts the chapters on the import path)

BLOCKS = (cifar_resnet_paper.BasicBlock, resnet_paper.BasicBlock, resnet_paper.Bottleneck)


def last_norm(block):
    """The name of the last batch normalisation of a block's branch: "bn2" or "bn3"."""
    # TODO: which of the three kinds of block has a third one?
    raise NotImplementedError("which of the three kinds of block has a third one?")


@torch.no_grad()
def zero_init_last(model):
    """Change a fresh ResNet or CifarResNet so that every branch is zero at first, whatever x is."""
    for block in model.modules():
        if isinstance(block, BLOCKS):
            # TODO: which tensor? The bias is zero already.
            raise NotImplementedError("which tensor? The bias is zero already.")


def asleep_at_first(model):
    """Names of all parameters whose gradient is exactly zero in the step after zero_init_last.

    To be told from the names alone, without a backward pass; think of eq. 5.12.

    Returns:
        set of names as in ``model.named_parameters()``.
    """
    names = set()
    for prefix, block in model.named_modules():
        if isinstance(block, BLOCKS):
            for name, _ in block.named_parameters():
                # TODO: is this parameter of the block cut off from the loss?
                raise NotImplementedError("is this parameter of the block cut off from the loss?")
    return names
