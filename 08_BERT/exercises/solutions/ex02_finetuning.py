"""Solution: fine-tune with a learning rate for each layer, and with layers that stay as they are.

Howard, Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
arXiv:1801.06146, section 3.2 (discriminative fine-tuning); Devlin et al., "BERT", section A.2 (no
weight decay of biases and norms).

The model is a ``BertForSequenceClassification`` of level 3. Names of its parameters:
``bert.embeddings...``, ``bert.encoder.layer.<i>...``, ``bert.pooler...``, ``classifier...``.
"""


def depth(name, layers):
    """How far from the input a parameter is: embeddings 0, layer i is i + 1, the rest layers + 1.

    Args:
        name: of the parameter. layers: L.
    """
    # --- your code: take the name apart
    if name.startswith("bert.embeddings."):
        return 0
    if name.startswith("bert.encoder.layer."):
        return int(name.split(".")[3]) + 1
    return layers + 1
    # --- end


def parameter_groups(model, lr, factor, weight_decay):
    """A group for each parameter, as ``torch.optim.AdamW`` takes them.

    What is on top has the rate ``lr``, everything below ``factor`` times the rate of what is
    directly above it. Biases and layer norms have no weight decay.

    Returns:
        [{"params": [p], "lr": ..., "weight_decay": ...}, ...] in the order of
        ``model.named_parameters()``.
    """
    layers = model.bert.config.layers
    groups = []
    for name, p in model.named_parameters():
        # --- your code: the rate and the decay of this parameter
        rate = lr * factor ** (layers + 1 - depth(name, layers))
        decay = weight_decay if p.ndim > 1 else 0.0
        # --- end
        groups.append({"params": [p], "lr": rate, "weight_decay": decay})
    return groups


def freeze(model, count):
    """Keep the embeddings and the first ``count`` layers as they are: no gradients for them."""
    layers = model.bert.config.layers
    for name, p in model.named_parameters():
        # --- your code: one line
        p.requires_grad_(depth(name, layers) > count)
        # --- end
