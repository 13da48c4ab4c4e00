"""Which family a class or function belongs to: the sections of the report, named as in jaxnn's own files."""

from __future__ import annotations

import re

# The first pattern that matches the lower-cased name decides.
_PATTERNS = (
    ("transformer", r"transformer"),
    ("attention", r"attention|multihead|multi_head"),
    ("recurrent", r"^(rnn|lstm|gru)|packed"),
    ("loss", r"loss|cross_entropy|kl_div|adaptivelogsoftmax"),
    ("pooling", r"pool"),
    ("padding", r"^(lazy)?pad|pad[123]d$"),
    ("convolution", r"conv"),
    ("fold", r"fold"),
    ("dropout", r"dropout"),
    ("normalization", r"norm"),
    ("sparse", r"embedding|one_hot"),
    ("vision", r"interpolate|upsampl|grid|pixel|shuffle"),
    ("distance", r"distance|cosine_similarity|cosinesimilarity|pdist"),
    ("linear", r"linear$|identity|flatten"),
    ("container", r"sequential|list$|dict$"),
)

FAMILIES = (*(family for family, _ in _PATTERNS), "activation")


def family_of(name: str) -> str:
    """The family of a class or function name; what no pattern takes is an activation."""
    lowered = name.lower()
    for family, pattern in _PATTERNS:
        if re.search(pattern, lowered):
            return family
    return "activation"
