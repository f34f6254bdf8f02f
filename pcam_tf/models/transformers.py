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

    Returns:
        A model from whatever `pictures` is made from to tokens
        (batch, prefix + (side / patch)², width).
    """
    side = pictures.shape[1]
    tokens = keras.layers.Conv2D(width, patch, strides=patch, name="patches")(pictures)
    tokens = keras.layers.Reshape(((side // patch) ** 2, width), name="tokens")(tokens)
    tokens = TokenEmbedding(prefix, name="embedding")(tokens)
    for index in range(depth):
        name = f"block{index}"
        normalised = keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm1")(tokens)
        attention = keras.layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")
        tokens = keras.layers.Add(name=f"{name}_add1")([tokens, attention(normalised, normalised)])
        normalised = keras.layers.LayerNormalization(epsilon=epsilon, name=f"{name}_norm2")(tokens)
        mixed = _mlp(normalised, hidden, gated, name)
        tokens = keras.layers.Add(name=f"{name}_add2")([tokens, mixed])
    if final_norm:
        tokens = keras.layers.LayerNormalization(epsilon=epsilon, name="norm")(tokens)
    (source,) = keras.utils.get_source_inputs(pictures)
    return keras.Model(source, tokens, name="vision_transformer")


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
