"""Vision transformers (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929) as Keras networks."""

import keras


@keras.saving.register_keras_serializable(package="pcam_tf")
class TokenEmbedding(keras.layers.Layer):
    """Adds position embeddings to patch tokens and puts learned tokens before them.

    The learned tokens (class token, registers) hold their own position embeddings, if any.

    Args:
        prefix: the number of tokens that are put before those of patches; may be 0.
    """

    def __init__(self, prefix: int, **options):
        super().__init__(**options)
        self.prefix = prefix

    def build(self, shape):
        """Create the position embeddings and the tokens."""
        tokens, width = shape[1:]
        self.positions = self.add_weight(
            (1, tokens, width), initializer=keras.initializers.TruncatedNormal(0.02)
        )
        if self.prefix:
            self.prefix_tokens = self.add_weight(
                (1, self.prefix, width), initializer=keras.initializers.TruncatedNormal(0.02)
            )

    def call(self, tokens):
        """Return (batch, prefix + tokens, width)."""
        tokens = tokens + self.positions
        if not self.prefix:
            return tokens
        count, width = keras.ops.shape(tokens)[0], tokens.shape[-1]
        before = keras.ops.broadcast_to(self.prefix_tokens, (count, self.prefix, width))
        return keras.ops.concatenate([before, tokens], axis=1)

    def compute_output_shape(self, shape):
        """Return the shape of the tokens."""
        return (shape[0], shape[1] + self.prefix, shape[2])

    def get_config(self):
        """Return what builds the layer again."""
        return {**super().get_config(), "prefix": self.prefix}


def vision_transformer(
    pictures: keras.KerasTensor,
    *,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    gated: bool = False,
    prefix: int = 1,
    final_norm: bool = True,
    epsilon: float = 1e-6,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Build a vision transformer with pre-normalisation, randomly initialised.

    Args:
        pictures: Keras tensor (batch, side, side, 3), normalised; `side` is a multiple of `patch`.
        patch: the side of one token's patch in pixels.
        width: numbers a token.
        depth: blocks.
        heads: of attention; divides `width`.
        hidden: units of the hidden layer in a block's MLP.
        gated: the MLP is SwiGLU (Shazeer 2020, arXiv:2002.05202) instead of exact GELU.
        prefix: tokens before those of the patches: class token, registers.
        final_norm: normalise the tokens of the last block.
        epsilon: of all layer normalisations.
        stochastic_depth: see `_blocks`.

    Returns:
        A model from whatever `pictures` is made from to tokens
        (batch, prefix + (side / patch)², width).
    """
    tokens = keras.layers.Conv2D(width, patch, strides=patch, name="patches")(pictures)
    tokens = TokenEmbedding(prefix, name="embedding")(_rows_of_tokens(tokens))
    tokens = _blocks(
        tokens,
        depth=depth,
        heads=heads,
        hidden=hidden,
        gated=gated,
        epsilon=epsilon,
        stochastic_depth=stochastic_depth,
    )
    if final_norm:
        tokens = keras.layers.LayerNormalization(epsilon=epsilon, name="norm")(tokens)
    (source,) = keras.utils.get_source_inputs(pictures)
    return keras.Model(source, tokens, name="vision_transformer")


def compact_transformer(
    input_tensor: keras.KerasTensor, stochastic_depth: float = 0.0
) -> keras.Model:
    """Return a compact convolutional transformer of 0.46 M weights, randomly initialised.

    A. Hassani et al., "Escaping the big data paradigm with compact transformers", 2021
    (arXiv:2104.05704), of the size of their CCT-4: convolutions make the tokens, one each 8 px, and
    a learned weight of each token pools them. It is meant for little data. Other than there, the
    first convolution has a step of 2 px, which halves the time.

    Args:
        input_tensor: Keras tensor (batch, side, side, 3), of mean 0 and variance 1.
        stochastic_depth: see `_blocks`.

    Returns:
        A model from the source of `input_tensor` to pooled tokens (batch, 128).
    """
    width, tensor = 128, input_tensor
    for index, (filters, kernel, stride) in enumerate(((32, 7, 2), (width, 3, 1))):
        tensor = keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="same",
            activation="relu",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"tokenizer{index}",
        )(tensor)
        tensor = keras.layers.MaxPooling2D(3, 2, padding="same", name=f"tokenizer{index}_pool")(
            tensor
        )
    tokens = TokenEmbedding(0, name="embedding")(_rows_of_tokens(tensor))
    tokens = _blocks(tokens, depth=4, heads=2, hidden=width, stochastic_depth=stochastic_depth)
    tokens = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")(tokens)
    shares = keras.layers.Dense(1, name="pool_scores")(tokens)
    shares = keras.layers.Softmax(axis=1, name="pool_shares")(shares)
    pooled = keras.layers.Dot(axes=1, name="pool")([shares, tokens])
    pooled = keras.layers.Reshape((width,), name="pooled")(pooled)
    (source,) = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(source, pooled, name="compact_transformer")


def _rows_of_tokens(features):
    """Return a feature map (batch, height, width, channels) as tokens, row by row."""
    _, height, width, channels = features.shape
    return keras.layers.Reshape((height * width, channels), name="tokens")(features)


def _blocks(
    tokens,
    *,
    depth,
    heads,
    hidden,
    gated=False,
    epsilon=1e-6,
    stochastic_depth=0.0,
):
    """Return tokens after blocks of attention and MLP.

    In training, block i of `depth`, counted from 0, is skipped for a share of the patches that is
    `stochastic_depth` × i / (depth - 1), "drop path" (G. Huang et al., ECCV 2016).
    """
    width = tokens.shape[-1]
    for index in range(depth):
        name, skipped = f"block{index}", stochastic_depth * index / max(depth - 1, 1)
        normalised = keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm1")(tokens)
        attention = keras.layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")
        attended = _skipped(attention(normalised, normalised), skipped, f"{name}_skip1")
        tokens = keras.layers.Add(name=f"{name}_add1")([tokens, attended])
        normalised = keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm2")(tokens)
        mixed = _skipped(_mlp(normalised, hidden, gated, name), skipped, f"{name}_skip2")
        tokens = keras.layers.Add(name=f"{name}_add2")([tokens, mixed])
    return tokens


def _skipped(tokens, share, name):
    if not share:
        return tokens
    return keras.layers.Dropout(share, noise_shape=(None, 1, 1), name=name)(tokens)


def _mlp(tokens, hidden, gated, name):
    width = tokens.shape[-1]
    if gated:
        gate = keras.layers.Dense(hidden, activation="silu", name=f"{name}_gate")(tokens)
        values = keras.layers.Dense(hidden, name=f"{name}_hidden")(tokens)
        inner = keras.layers.Multiply(name=f"{name}_gated")([gate, values])
    else:
        # Keras's "gelu" is the exact one.
        inner = keras.layers.Dense(hidden, activation="gelu", name=f"{name}_hidden")(tokens)
    return keras.layers.Dense(width, name=f"{name}_out")(inner)
