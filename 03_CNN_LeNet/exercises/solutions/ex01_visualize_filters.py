"""Solution: look at what a convolution has learnt: its kernels, and the patches they answer to.

    python 03_CNN_LeNet/exercises/ex01_visualize_filters.py

trains LeNet on scikit-learn's digits for up to half a minute and, once the tests pass, draws the
kernels of C1 (runs/exercises/03_filters.png) and what each of them likes best (03_patches.png
beside it).
"""

import numpy as np

import utils
from conv_numpy import conv2d_forward, im2col
from lenet_numpy import LeNet, LeNetConfig
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from utils.data_loaders import enlarge_digits, load_arrays
from utils.visualization import plot_filters, plot_image_grid


def normalise_filters(weight):
    """Kernels as grey images: zero is 0.5, and the largest weight of each kernel is 0 or 1.

    Each kernel (all its input channels together) is scaled by its own largest magnitude, so that a
    faint kernel can be seen beside a strong one. A kernel of zeros stays grey.

    Args:
        weight: (Co, C, kH, kW).

    Returns:
        the same shape, values in [0, 1].
    """
    # --- your code: divide each kernel by its largest magnitude, then map -1..1 to 0..1
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    largest[largest == 0] = 1
    return 0.5 + 0.5 * weight / largest
    # --- end


def strongest_patches(images, weight, bias, count):
    """The patches of the images that excite each kernel most.

    Args:
        images: (B, 1, H, W). weight: (Co, 1, k, k). bias: (Co,). No padding.
        count: how many patches a kernel, the strongest first.

    Returns:
        (Co, count, k, k).
    """
    Co, _, k, _ = weight.shape
    y, _ = conv2d_forward(images, weight, bias)  # -> (B, Co, Ho, Wo)
    # --- your code: the largest numbers of y[:, o] and the patches they came from, for each o
    # im2col has one column for each place, in the order (i, j, b)
    patches = im2col(images, k).T  # (k*k, Ho*Wo*B) -> (Ho*Wo*B, k*k)
    answers = y.transpose(1, 2, 3, 0).reshape(Co, -1)  # (B, Co, Ho, Wo) -> (Co, Ho*Wo*B)
    best = np.argsort(-answers, axis=1, kind="stable")[:, :count]  # -> (Co, count)
    return patches[best].reshape(Co, count, k, k)
    # --- end


def main():
    data = load_arrays("digits")
    x = enlarge_digits(data.x_train)
    model = LeNet(LeNetConfig(), np.random.default_rng(0), np.float32)
    optimizer = Adam(model.params, lr=0.002)
    for epoch in range(8):
        order = np.random.default_rng(epoch).permutation(len(x))
        for index in np.array_split(order, len(x) // 32):
            _, cache = softmax_cross_entropy_forward(model.forward(x[index]), data.y_train[index])
            optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    weight, bias = model.params["c1.weight"], model.params["c1.bias"]
    folder = utils.ROOT / "runs" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    plot_filters(weight, title="C1 after training", path=folder / "03_filters.png")
    rows = [
        picture
        for kernel, patches in zip(
            normalise_filters(weight)[:, 0], strongest_patches(x, weight, bias, 7), strict=True
        )
        for picture in (kernel, *patches)
    ]
    plot_image_grid(
        np.array(rows),
        columns=8,
        title="each kernel of C1, and the patches it likes best",
        path=folder / "03_patches.png",
    )
    print(f"two pictures in {folder}")


if __name__ == "__main__":
    main()
