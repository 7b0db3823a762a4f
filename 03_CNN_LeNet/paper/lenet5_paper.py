"""LeNet-5 as the paper prints it (level 3): sub-sampling, connection table, RBF outputs, its loss.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (11), 2278-2324, 1998: section II.B (the network, Fig. 2,
Table I, equations 5 to 7), II.C (the loss, equations 8 and 9), III (data and training) and appendix
A (the squashing function, initialisation).

Map of this file:
    LeNet5Config          the paper's network; every later replacement is an option
    prepare               images as the paper feeds them: 32x32, values -0.1 to 1.175
    ScaledTanh            1.7159 tanh(2x/3)
    SubSampling           trainable coefficient and bias on the sum of 2x2 units (S2, S4)
    TableConvolution      a convolution whose maps see some input maps only (C3)
    digit_codes           the bitmaps of 7x12 that the output units compare with
    RBFOutput             squared distance to each bitmap
    LeNet5                the network: exactly 60,000 trainable parameters
    map_loss              equation (9), the maximum a posteriori (MAP) criterion
    loss_function         the same for the shared training loop

Shapes: B batch, K classes, C channels, H, W height and width.

Read before: lenet_paper.py; 03_CNN_LeNet/theory.md section 7.

Deviations from the paper: the bitmaps of Fig. 3 are drawn anew after its description (the figure is
a picture, not a table of numbers); the constant j of equation (9) is not given there and is 1 here;
LeNet5 returns minus the RBF penalties, so that the largest output is the answer, as in every other
model; training is by mini-batches with Adam for the paper's one example at a time with diagonal
Levenberg-Marquardt (appendix C), see train.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Table I: which maps of S2 (rows, 0 to 5) each map of C3 (columns, 0 to 15) is connected to.
TABLE_I = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""


CHOICES = {
    "connection_table": ("table1", "full"),
    "subsampling": ("trainable", "avg", "max"),
    "activation": ("scaled_tanh", "tanh", "relu"),
    "output": ("rbf", "linear"),
}


@dataclass(frozen=True)
class LeNet5Config:
    """The network of the paper by default; each option undoes one difference from today's LeNet.

    Args:
        connection_table: what C3 sees of S2: some maps (Table I), or all of them.
        subsampling: S2 and S4 with trainable numbers and squashing, or plain pooling.
        activation: the squashing function. With "relu", He's initialisation replaces the paper's,
            under which the signal of a ReLU network dies out.
        output: Euclidean RBF units on fixed codes with the paper's loss, or a linear layer with
            softmax cross-entropy.
        rubbish_penalty: the constant j of equation (9), for RBF outputs.
    """

    connection_table: str = "table1"
    subsampling: str = "trainable"
    activation: str = "scaled_tanh"
    output: str = "rbf"
    rubbish_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"expected {name} of {choices}, got {getattr(self, name)!r}")
        if not self.rubbish_penalty > 0:
            raise ValueError(f"expected a positive rubbish_penalty, got {self.rubbish_penalty}")

    @classmethod
    def lecun1998(cls) -> "LeNet5Config":
        """The network as printed: 60,000 trainable parameters."""
        return cls()

    @classmethod
    def modern(cls) -> "LeNet5Config":
        """Every difference undone: the function of ``lenet_paper.LeNet``, 61,706 parameters."""
        return cls(connection_table="full", subsampling="max", activation="relu", output="linear")


def prepare(images: Tensor) -> Tensor:
    """Images (B, 1, 28, 28) in [0, 1] as the paper's input (B, 1, 32, 32).

    Background becomes -0.1 and full ink 1.175 (eq. 3.34). The frame of two background pixels lets
    C1 see strokes at the rim in the middle of a window.

    Raises:
        ValueError: the images have another shape.
    """
    if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"expected images (B, 1, 28, 28), got {tuple(images.shape)}")
    return F.pad(images * 1.275 - 0.1, (2, 2, 2, 2), value=-0.1)  # -> (B, 1, 32, 32)


class ScaledTanh(nn.Module):
    """A tanh(S x) with A = 1.7159 and S = 2/3 (equation 6, appendix A; eq. 3.26).

    The numbers make f(1) = 1 and f(-1) = -1, so that targets of ±1 do not lie on the flat ends.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class SubSampling(nn.Module):
    """S2 and S4: sum of 2x2 units, times a coefficient, plus a bias, squashed (eq. 3.22).

    State: ``weight`` (C,) and ``bias`` (C,), two numbers a map.
    """

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        total = 4 * F.avg_pool2d(x, 2)  # (B, C, H, W) -> (B, C, H/2, W/2)
        return self.activation(total * self.weight[:, None, None] + self.bias[:, None, None])


class TableConvolution(nn.Module):
    """C3: a 5x5 convolution in which each map sees the input maps that a table lists (eq. 3.25).

    State: ``weight`` (number of connections, 5, 5), in the order of the output maps, and ``bias``.
    Only what is trained is stored, so that counting the parameters gives the paper's number. The
    table is kept in buffers: tensors that move to the GPU with the model, but are not trained;
    ``persistent=False`` leaves them out of ``state_dict()``.
    """

    def __init__(self, table: Tensor, kernel_size: int = 5) -> None:
        super().__init__()
        outputs, inputs = table.nonzero(as_tuple=True)  # one pair for each connection
        self.register_buffer("outputs", outputs, persistent=False)
        self.register_buffer("inputs", inputs, persistent=False)
        self.dense_shape = (*table.shape, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.zeros(len(outputs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(len(table)))

    def dense_weight(self) -> Tensor:
        """The same as an ordinary kernel (Co, C, 5, 5), zero where there is no connection."""
        empty = self.weight.new_zeros(self.dense_shape)
        return empty.index_put((self.outputs, self.inputs), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)


def connection_table() -> Tensor:
    """Table I as a bool tensor (16 maps of C3, 6 maps of S2); 60 of its 96 entries are True."""
    rows = [[mark == "X" for mark in line] for line in TABLE_I.split()]
    return torch.tensor(rows).T.contiguous()  # (6, 16) -> (16, 6)


# Seven columns and twelve rows a digit, after Fig. 3.
DIGITS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...##..  .#####.  .#####.  ....##.  ######.  ..####.  #######  .#####.  .#####.
.#...#.  ..###..  #....##  #....##  ...###.  #......  .#.....  .....##  #.....#  #.....#
#.....#  .####..  ......#  ......#  ..##.#.  #......  #......  .....#.  #.....#  #.....#
#.....#  ...##..  ......#  .....##  .##..#.  #......  #......  ....##.  #.....#  #.....#
#.....#  ...##..  .....##  ..####.  ##...#.  ######.  #.####.  ....#..  .#####.  .######
#.....#  ...##..  ...###.  .....##  #....#.  .....##  ##...##  ...##..  #.....#  ......#
#.....#  ...##..  .##....  ......#  #######  ......#  #.....#  ...#...  #.....#  ......#
#.....#  ...##..  ##.....  ......#  .....#.  ......#  #.....#  ..##...  #.....#  ......#
.#...#.  ...##..  #......  #....##  .....#.  #....##  ##...##  ..#....  #.....#  .....#.
..###..  .######  #######  .#####.  .....#.  .#####.  .#####.  ..#....  .#####.  .####..
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""


def digit_codes() -> Tensor:
    """The ten bitmaps as codes (10, 84) of +1 (ink) and -1 (paper), rows from the top."""
    lines = [line.split() for line in DIGITS.split("\n") if line]  # 12 lines of 10 pieces
    bitmaps = ["".join(pieces) for pieces in zip(*lines, strict=True)]  # 10 of 84 marks
    return torch.tensor([[1.0 if mark == "#" else -1.0 for mark in bits] for bits in bitmaps])


class RBFOutput(nn.Module):
    """Equation (7): one unit a class, the squared distance of F6 to the class's code (eq. 3.28).

    State: ``codes`` (K, 84), fixed.
    """

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, x: Tensor) -> Tensor:
        """Penalties (B, K) of states (B, 84): the smaller, the likelier the class."""
        return (x[:, None, :] - self.codes).square().sum(dim=2)  # (B, 1, 84) -> (B, K)


class LeNet5(nn.Module):
    """C1, S2, C3, S4, C5, F6 and the output, as Fig. 2 draws them.

    State: ``weight`` and ``bias`` of c1 (6, 1, 5, 5), s2 (6,), c3 (60, 5, 5), s4 (16,),
    c5 (120, 16, 5, 5), f6 (84, 120); ``output.codes`` (10, 84).
    """

    def __init__(self, config: LeNet5Config | None = None) -> None:
        super().__init__()
        self.config = config = config or LeNet5Config()
        squashes = {"scaled_tanh": ScaledTanh(), "tanh": nn.Tanh(), "relu": nn.ReLU()}
        self.activation = squashes[config.activation]
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = self._subsampling(6)
        full = config.connection_table == "full"
        self.c3 = nn.Conv2d(6, 16, 5) if full else TableConvolution(connection_table())
        self.s4 = self._subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = RBFOutput(digit_codes()) if config.output == "rbf" else nn.Linear(84, 10)
        self.initialise()

    def _subsampling(self, channels: int) -> nn.Module:
        if self.config.subsampling == "trainable":
            return SubSampling(channels, self.activation)
        return nn.AvgPool2d(2) if self.config.subsampling == "avg" else nn.MaxPool2d(2)

    def fan_in(self, name: str) -> Tensor:
        """How many units feed each unit of a layer, one number or one for each of its maps."""
        if name in ("s2", "s4"):
            return torch.tensor(4)
        layer = getattr(self, name)
        if isinstance(layer, TableConvolution):
            return 25 * torch.bincount(layer.outputs, minlength=len(layer.bias))
        return torch.tensor(layer.weight[0].numel())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Appendix A: weights and biases uniform in ±2.4 / fan-in (eq. 3.33); He's for ReLU."""
        for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output"):
            layer = getattr(self, name)
            if not list(layer.parameters()):
                continue
            fan_in = self.fan_in(name)
            of_weight = fan_in
            if isinstance(layer, TableConvolution):
                of_weight = fan_in[layer.outputs][:, None, None]  # one for each connection
            if self.config.activation == "relu" and name not in ("s2", "s4"):
                layer.weight.normal_(generator=generator).mul_((2 / of_weight) ** 0.5)
                layer.bias.zero_()
            else:
                layer.weight.uniform_(-2.4, 2.4, generator=generator).div_(of_weight)
                layer.bias.uniform_(-2.4, 2.4, generator=generator).div_(fan_in)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, 10) of prepared images (B, 1, 32, 32): the largest is the answer.

        With RBF outputs the scores are minus the penalties of equation (7).

        Raises:
            ValueError: the images have another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (1, 32, 32):
            raise ValueError(f"expected images (B, 1, 32, 32), got {tuple(x.shape)}")
        x = self.activation(self.c1(x))  # (B, 1, 32, 32) -> (B, 6, 28, 28)
        x = self.s2(x)  # (B, 6, 28, 28) -> (B, 6, 14, 14)
        x = self.activation(self.c3(x))  # (B, 6, 14, 14) -> (B, 16, 10, 10)
        x = self.s4(x)  # (B, 16, 10, 10) -> (B, 16, 5, 5)
        x = self.activation(self.c5(x)).flatten(start_dim=1)  # (B, 16, 5, 5) -> (B, 120)
        x = self.activation(self.f6(x))  # (B, 120) -> (B, 84)
        return -self.output(x) if self.config.output == "rbf" else self.output(x)  # -> (B, 10)


def map_loss(penalties: Tensor, targets: Tensor, rubbish_penalty: float = 1.0) -> Tensor:
    """Equation (9), the mean over the batch of y_target + log(e^-j + sum_k e^-y_k) (eq. 3.29).

    Args:
        penalties: (B, K), the outputs of the RBF units. targets: (B,) int labels.
        rubbish_penalty: j, the penalty of a class "none of these".
    """
    right = penalties.gather(1, targets[:, None]).squeeze(1)  # (B, K) -> (B,)
    rubbish = penalties.new_full((len(penalties), 1), rubbish_penalty)
    everything = torch.cat([penalties, rubbish], dim=1)  # (B, K) -> (B, K + 1)
    return (right + torch.logsumexp(-everything, dim=1)).mean()


def loss_function(model: LeNet5, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The model's own loss on a batch ``(prepared images, labels)``, in nats."""
    x, targets = batch
    scores = model(x)
    if model.config.output == "linear":
        return F.cross_entropy(scores, targets)
    return map_loss(-scores, targets, model.config.rubbish_penalty)
