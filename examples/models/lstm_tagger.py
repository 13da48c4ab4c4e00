"""A part-of-speech tagger; parameters are named as in PyTorch's tutorial on sequence models.

https://pytorch.org/tutorials/beginner/nlp/sequence_models_tutorial.html, and whole batches besides.
"""

from __future__ import annotations

import jaxnn as nn
import jaxnn.functional as F


class LSTMTagger(nn.Module):
    """Words to the log-probabilities of their tags."""

    def __init__(self, embedding_dim: int, hidden_dim: int, vocab_size: int, tagset_size: int):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim)
        self.hidden2tag = nn.Linear(hidden_dim, tagset_size)

    def forward(self, sentence):
        """One sentence, (time,), to (time, tagset_size)."""
        embeds = self.word_embeddings(sentence)
        lstm_out, _ = self.lstm(embeds.reshape(len(sentence), 1, -1))
        tag_space = self.hidden2tag(lstm_out.reshape(len(sentence), -1))
        return F.log_softmax(tag_space, dim=1)

    def tag_batch(self, sentences, lengths):
        """Padded sentences, (time, batch), to (time, batch, tagset_size); the LSTM sees no padding.

        Scores behind a sentence's end mean nothing. `lengths` are on the host, in any order.
        """
        embeds = self.word_embeddings(sentences)
        packed = nn.utils.rnn.pack_padded_sequence(embeds, lengths, enforce_sorted=False)
        lstm_out, _ = self.lstm(packed)
        lstm_out, _ = nn.utils.rnn.pad_packed_sequence(lstm_out, total_length=len(sentences))
        return F.log_softmax(self.hidden2tag(lstm_out), dim=2)
