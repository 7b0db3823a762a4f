"""Exercise: a cache for transformers that keeps the first tokens and the last ones, and no others.

As in G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023,
arXiv:2309.17453, section 3.2, but for their renumbering of places, which GPT-2 does not allow.
Sizes: keys and values (B, nH, S, Dh) of S tokens, T of them new.
"""

import torch
from transformers.cache_utils import Cache, DynamicLayer


def keep(x, sinks, recent):
    """The first ``sinks`` and the last ``recent`` (1 or more) of the S tokens of x (B, nH, S, Dh).

    All of them, each once, if there are no more.
    """
    # TODO: two ends of axis 2, joined again
    raise NotImplementedError("two ends of axis 2, joined again")


class SinkLayer(DynamicLayer):
    """Keys and values of one block: ``self.keys``, ``self.values`` have sinks + recent tokens."""

    is_croppable = False  # a token that was dropped cannot come back

    def __init__(self, sinks, recent):
        super().__init__()
        if sinks < 0 or recent < 1:
            raise ValueError(f"expected sinks >= 0 and recent >= 1, got {sinks} and {recent}")
        self.sinks, self.recent = sinks, recent
        self.cumulative_length = 0  # tokens that came, kept or not; reset() makes it 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Store T new tokens, and return the keys and values that they attend to.

        Those are the sinks and the last recent - 1 + T: so the first of the new tokens finds
        ``recent`` tokens, itself included, and a first call returns all that it got.
        """
        # TODO: join to what is stored, count the new tokens, store, return
        raise NotImplementedError("join to what is stored, count the new tokens, store, return")

    def get_seq_length(self):
        """How many tokens came so far, which is where GPT2Model places the next one."""
        # TODO: one number for get_seq_length
        raise NotImplementedError("one number for get_seq_length")

    def get_mask_sizes(self, query_length):
        """How many keys ``update`` will return for so many new tokens, and the place of the first.

        The causal mask counts on from that place. The last key has to come out at the place of the
        last query; the sinks then seem nearer than they are, but still lie before every query.
        """
        # TODO: two numbers for get_mask_sizes
        raise NotImplementedError("two numbers for get_mask_sizes")


def sink_cache(model, sinks, recent):
    """A Cache for a GPT2LMHeadModel, with a SinkLayer for each block."""
    # TODO: Cache takes a list of layers, one for each block
    raise NotImplementedError("Cache takes a list of layers, one for each block")
