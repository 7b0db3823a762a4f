"""VGG as the paper has it (level 3): all six networks of its Table 1.

Papers:
- K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
  2014, arXiv:1409.1556: sections 2 (Tables 1 and 2) and 3.1 (initialisation). Section 3.2 is in
  vgg_dense_paper.py, beside this file.
- A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural
  Networks", NIPS 2012, section 3.3: local response normalisation.

Map of this file:
    TABLE_1                 the six networks, as Table 1 has them
    VGGConfig               one of them, and its sizes; a variant for images of 32x32
    LocalResponseNorm       the normalisation of net A-LRN
    VGG                     the network, features at any layer, torchvision's weights
    initialise              the paper's random weights, Glorot's or He's
    initialise_from_net_a   a deep net that starts from the trained net A
    loss_function           softmax cross-entropy, for the shared training loop

Shapes: B batch, C channels, H, W height and width, K classes.

Read before: 04_VGG/numpy/vgg_numpy.py, 04_VGG/pytorch_lowlevel/vgg_lowlevel.py.

Deviations from the paper: weights start as He's by default (``initialise`` has the paper's); batch
normalisation is a variant that torchvision has, not the paper. README.md has the whole list.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# "3-64" is a convolution of 3x3 to 64 channels, with its ReLU; "|" is max pooling of 2x2, and there
# is one more at the end. Every column goes on with the same three linear layers.
TABLE_1 = {
    "A": "3-64 | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "A-LRN": "3-64 LRN | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "B": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "C": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 1-256 | 3-512 3-512 1-512 | 3-512 3-512 1-512",
    "D": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 | 3-512 3-512 3-512 | 3-512 3-512 3-512",
    "E": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 3-256 | 3-512 3-512 3-512 3-512 "
    "| 3-512 3-512 3-512 3-512",
}
TORCHVISION = {"A": "VGG11", "B": "VGG13", "D": "VGG16", "E": "VGG19"}


@dataclass(frozen=True)
class VGGConfig:
    """One of the six networks, and its sizes; the defaults are the paper's.

    Args:
        net: a key of ``TABLE_1``.
        batch_norm: batch normalisation between each convolution and its ReLU (not in the paper).
        width: channels of the first block; the others keep their proportion.
        hidden: width of the two hidden linear layers.
        classes: number of outputs.
        image_size: height and width of the images; a multiple of 32.
        dropout: share of the hidden linear units dropped in training.
    """

    net: str = "A"
    batch_norm: bool = False
    width: int = 64
    hidden: int = 4096
    classes: int = 1000
    image_size: int = 224
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.net not in TABLE_1:
            raise ValueError(f"expected a net of {', '.join(TABLE_1)}; got {self.net!r}")
        if min(self.width, self.hidden, self.classes) < 1:
            raise ValueError(
                "expected width, hidden and classes of at least 1, "
                f"got {self.width}, {self.hidden} and {self.classes}"
            )
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(
                f"expected an image_size that five halvings divide (32, 64 ...), got "
                f"{self.image_size}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @classmethod
    def cifar(cls, net: str = "D", batch_norm: bool = True, width: int = 64) -> "VGGConfig":
        """For 32x32 images in ten classes: the last map is one pixel, the linear layers small."""
        return cls(net, batch_norm, width, hidden=8 * width, classes=10, image_size=32)


class LocalResponseNorm(nn.Module):
    """Divide each number by (k + alpha * sum of n neighbour channels' squares) ** beta.

    ``nn.LocalResponseNorm`` is the same with alpha / n: there the paper's 1e-4 is written 5e-4.
    """

    def __init__(self, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.n, self.alpha, self.beta, self.k = n, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        C, half = x.shape[1], self.n // 2
        squares = F.pad(x * x, (0, 0, 0, 0, half, half))  # -> (B, C + n - 1, H, W)
        s = self.k + self.alpha * sum(squares[:, i : i + C] for i in range(self.n))  # eq. 4.10
        return x * s**-self.beta  # eq. 4.11


class VGG(nn.Module):
    """Five blocks of convolutions, each ended by pooling, then three linear layers.

    State: ``features.<i>.weight``, ``classifier.<i>.weight`` and biases, as in torchvision's vgg.

    Attributes:
        layer_names: every layer's place, in net A ``conv3_2`` -> ``features.8``. The names: conv,
            bn, relu, lrn with block and number; pool1 to pool5; fc6, relu6, drop6, fc7, relu7,
            drop7, fc8.
    """

    def __init__(self, config: VGGConfig | None = None) -> None:
        super().__init__()
        self.config = config or VGGConfig()
        features = dict(self._features())
        side = self.config.image_size // 32  # what five poolings leave of the image
        channels, hidden = 8 * self.config.width, self.config.hidden
        classifier = {
            "fc6": nn.Linear(channels * side * side, hidden),
            "relu6": nn.ReLU(),
            "drop6": nn.Dropout(self.config.dropout),
            "fc7": nn.Linear(hidden, hidden),
            "relu7": nn.ReLU(),
            "drop7": nn.Dropout(self.config.dropout),
            "fc8": nn.Linear(hidden, self.config.classes),
        }
        self.features = nn.Sequential(*features.values())
        self.classifier = nn.Sequential(*classifier.values())
        self.layer_names = {
            name: f"{part}.{i}"
            for part, layers in (("features", features), ("classifier", classifier))
            for i, name in enumerate(layers)
        }
        initialise(self)

    def _features(self) -> Iterator[tuple[str, nn.Module]]:
        """Name and layer of all that comes before the linear layers."""
        C = 3
        for b, block in enumerate(TABLE_1[self.config.net].split("|"), start=1):
            count = 0
            for word in block.split():
                if word == "LRN":
                    yield f"lrn{b}_{count}", LocalResponseNorm()
                    continue
                count += 1
                k, channels = map(int, word.split("-"))
                Co = channels * self.config.width // 64
                yield f"conv{b}_{count}", nn.Conv2d(C, Co, k, padding=k // 2)
                if self.config.batch_norm:
                    yield f"bn{b}_{count}", nn.BatchNorm2d(Co)
                yield f"relu{b}_{count}", nn.ReLU()
                C = Co
            yield f"pool{b}", nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) of the configured size.

        Raises:
            ValueError: the images have another shape.
        """
        size = self.config.image_size
        if x.ndim != 4 or x.shape[1:] != (3, size, size):
            raise ValueError(
                f"expected images (B, 3, {size}, {size}), got {tuple(x.shape)}; "
                "vgg_dense_paper.py takes larger ones"
            )
        x = self.features(x)  # -> (B, C, H/32, W/32)
        return self.classifier(x.flatten(start_dim=1))  # -> (B, K)

    def features_at(self, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """What the named layers give for images; only as much is computed as that needs.

        Args:
            x: (B, 3, H, W); any size of 32 and more as long as no linear layer is asked for.
            names: keys of ``layer_names``, such as ``conv1_1``, ``relu5_3``, ``pool5``, ``fc7``.

        Raises:
            ValueError: there is no layer of that name.
        """
        unknown = sorted(set(names) - set(self.layer_names))
        if unknown:
            known = ", ".join(self.layer_names)
            raise ValueError(f"expected layers of {known}; got {', '.join(unknown)}")
        found: dict[str, Tensor] = {}
        for name, place in self.layer_names.items():
            if len(found) == len(set(names)):
                break
            if name == "fc6":
                x = x.flatten(start_dim=1)  # (B, C, H/32, W/32) -> (B, C*H/32*W/32)
            x = self.get_submodule(place)(x)
            if name in names:
                found[name] = x
        return found

    @classmethod
    def from_pretrained(cls, net: str = "D", batch_norm: bool = False) -> "VGG":
        """The network with torchvision's ImageNet weights, fetched once (500 MB) and checked.

        They want images in [0, 1], minus the mean (0.485, 0.456, 0.406), divided by (0.229, 0.224,
        0.225), in RGB.

        Raises:
            ValueError: torchvision has no weights of this net.
        """
        import torchvision

        if net not in TORCHVISION:
            raise ValueError(f"torchvision has weights of A, B, D and E; got {net!r}")
        name = TORCHVISION[net] + ("_BN" if batch_norm else "")
        weights = torchvision.models.get_weight(f"{name}_Weights.IMAGENET1K_V1")
        with torch.device("meta"):  # names and shapes alone: the numbers come from the file
            model = cls(VGGConfig(net, batch_norm))
        state = weights.get_state_dict(check_hash=True, weights_only=True)
        model.load_state_dict(state, assign=True)
        return model.eval()


# --- initial weights


def initialise(model: VGG, scheme: str = "he") -> None:
    """New random weights, biases zero.

    Args:
        scheme: "he", "glorot" (section 3.1 recommends it in hindsight), or "paper": normal with
            variance 1e-2, which trains net A at best (theory.md, section 5).

    Raises:
        ValueError: another scheme.
    """
    if scheme not in ("he", "glorot", "paper"):
        raise ValueError(f"expected a scheme of he, glorot, paper; got {scheme!r}")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if scheme == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif scheme == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)


def initialise_from_net_a(model: VGG, net_a: Mapping[str, Tensor]) -> list[str]:
    """Copy four convolutions and the three linear layers of a trained net A (section 3.1).

    The paper says "the first four convolutional layers"; by block and number, as only so the shapes
    fit: conv1_1, conv2_1, conv3_1 and conv3_2.

    Args:
        net_a: its ``state_dict()``; same width, hidden, classes, image_size and batch_norm.

    Returns:
        the names of the layers that were copied.

    Raises:
        ValueError: a shape does not fit.
    """
    with torch.device("meta"):  # only for its names
        names = VGG(replace(model.config, net="A")).layer_names
    layers = [f"{kind}{i}" for i in ("1_1", "2_1", "3_1", "3_2") for kind in ("conv", "bn")]
    layers = [name for name in [*layers, "fc6", "fc7", "fc8"] if name in names]
    for name in layers:
        source, target = names[name], model.get_submodule(model.layer_names[name])
        for key, value in target.state_dict().items():
            given = net_a.get(f"{source}.{key}")
            if given is None or given.shape != value.shape:
                got = "nothing" if given is None else tuple(given.shape)
                raise ValueError(
                    f"expected {name} of net A as {source}.{key} {tuple(value.shape)}, got {got}"
                )
            value.copy_(given)  # state_dict() shares memory with the layer
    return layers


def loss_function(model: VGG, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean softmax cross-entropy of a batch ``(images, labels)``, in nats."""
    x, targets = batch
    return F.cross_entropy(model(x), targets)
