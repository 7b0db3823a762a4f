"""Exercise: a new task for BERT, which tokens were replaced? (modifying production code, 3 of 3)

Clark, Luong, Le, Manning, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
Generators", 2020, arXiv:2003.10555, section 2: a model that says of every token whether it is the
original learns from all tokens, not from 15 % of them.
"""

import torch.nn.functional as F
from torch import nn
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput


class BertForReplacedTokens(BertPreTrainedModel):
    """transformers' encoder with one number for every token: above 0, it was replaced.

    Attributes:
        bert: the encoder, without a pooler.
        dense, score: linear layers D -> D and D -> 1, with GELU between them.
    """

    def __init__(self, config):
        super().__init__(config)
        # TODO: the three modules, then let transformers initialise them (post_init)
        raise NotImplementedError(
            "the three modules, then let transformers initialise them (post_init)"
        )

    def forward(self, input_ids, attention_mask, labels=None):
        """Token numbers, mask and labels (B, T), ints; labels 1 = replaced, 0 = original.

        Returns:
            ``TokenClassifierOutput`` with logits (B, T), and with labels the mean binary
            cross-entropy over the tokens that are no padding.
        """
        # TODO: vectors of the tokens, the two layers, one number each
        raise NotImplementedError("vectors of the tokens, the two layers, one number each")
        loss = None
        if labels is not None:
            # TODO: the loss of the real tokens
            raise NotImplementedError("the loss of the real tokens")
        return TokenClassifierOutput(loss=loss, logits=logits)
