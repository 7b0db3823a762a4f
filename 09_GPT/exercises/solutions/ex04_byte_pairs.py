"""Solution: byte pairs by hand, the training of a tokenizer in its plainest form.

R. Sennrich, B. Haddow, A. Birch, 2016, arXiv:1508.07909, Algorithm 1, on bytes as in GPT-2. A text
is a list of ints: 0 to 255 are bytes, and the n-th merge makes the token 256 + n.
"""


def count_pairs(pieces):
    """How often each pair of neighbours occurs in all pieces together: {(left, right): count}.

    Args:
        pieces: a list of lists of ints. A pair never reaches from one piece into the next.
    """
    counts = {}
    # --- your code: go through the neighbours of each piece
    for tokens in pieces:
        for left, right in zip(tokens[:-1], tokens[1:], strict=True):
            counts[left, right] = counts.get((left, right), 0) + 1
    # --- end
    return counts


def merge(tokens, pair, number):
    """Replace each occurrence of the pair, from left to right, by the token ``number``."""
    merged, i = [], 0
    while i < len(tokens):
        # --- your code: two tokens become one, or one stays; either way i moves on
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(number)
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
        # --- end
    return merged


def train(pieces, count):
    """Learn up to ``count`` merges from pieces of text (a list of str).

    The most frequent pair is merged; of several, the one that comes first in order, (1, 2) before
    (1, 3) before (2, 0). Training ends early when no pair occurs twice.

    Returns:
        the pairs, in the order learnt.
    """
    coded = [list(piece.encode("utf-8")) for piece in pieces]
    merges = []
    for n in range(count):
        # --- your code: count, choose, merge in every piece
        counts = count_pairs(coded)
        if not counts or max(counts.values()) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        coded = [merge(tokens, best, 256 + n) for tokens in coded]
        merges.append(best)
        # --- end
    return merges


def encode(piece, merges):
    """The tokens of one piece of text (a str)."""
    # --- your code: the merges in the order they were learnt
    tokens = list(piece.encode("utf-8"))
    for n, pair in enumerate(merges):
        tokens = merge(tokens, pair, 256 + n)
    return tokens
    # --- end


def decode(tokens, merges):
    """The text of some tokens; bytes that are no UTF-8 become U+FFFD."""
    # --- your code: the bytes of each token, then one decoding for all
    table = [bytes([b]) for b in range(256)]
    for left, right in merges:
        table.append(table[left] + table[right])
    return b"".join(table[t] for t in tokens).decode("utf-8", errors="replace")
    # --- end
