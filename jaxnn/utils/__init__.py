from jaxnn.utils import rnn as rnn
