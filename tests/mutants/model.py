"""Plausible mistakes in model.py, in the functions that the exercises of chapter 02 ask for."""

MUTANTS = {
    "rotate": {
        "turns the other way": (
            "[first * cos - second * sin, second * cos + first * sin]",
            "[first * cos + second * sin, second * cos - first * sin]",
        ),
        "is a reflection, not a rotation": (
            "second * cos + first * sin",
            "second * cos - first * sin",
        ),
        "the halves come out interleaved": (
            "torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)",
            "torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)",
        ),
        "sine and cosine are exchanged": (
            "[first * cos - second * sin, second * cos + first * sin]",
            "[first * sin - second * cos, second * sin + first * cos]",
        ),
        "neighbouring channels are a pair, not those half a head apart": (
            "first, second = x.chunk(2, dim=-1)",
            "first, second = x[..., ::2], x[..., 1::2]",
        ),
    },
    "rope_frequencies": {
        "the exponent counts pairs, not channels": (
            "torch.arange(0, config.head_width, 2, dtype=torch.float32)",
            "torch.arange(config.head_width // 2, dtype=torch.float32)",
        ),
        "later pairs turn faster": ("** (-steps", "** (steps"),
        "the exponent is divided by the width of the stream": (
            "(-steps / config.head_width)",
            "(-steps / config.width)",
        ),
        "linear scaling turns faster instead of slower": (
            'return frequencies / scaling["factor"]',
            'return frequencies * scaling["factor"]',
        ),
        "llama3 stretches the fast channels, not the slow ones": (
            "(keep + (1 - keep) / ",
            "(1 - keep + keep / ",
        ),
        "llama3 has no smooth passage": ("(high - low)).clamp(0, 1)", "1e-9).clamp(0, 1)"),
    },
    "attend": {
        "a token sees those after it": ("mask is None and query.shape[2] > 1", "False"),
        "is not divided by the root of the head width": (
            "attn_mask=mask,",
            "attn_mask=mask, scale=1.0,",
        ),
        "is divided by the head width, not by its root": (
            "attn_mask=mask,",
            "attn_mask=mask, scale=1 / query.shape[-1],",
        ),
        "the heads that share a key are not neighbours": (
            "        key,\n        value,\n",
            "        *(x.repeat(1, query.shape[1] // key.shape[1], 1, 1) for x in (key, value)),\n",
        ),
        "looks where the mask forbids it": (
            "attn_mask=mask,",
            "attn_mask=~mask if mask is not None and mask.dtype == torch.bool else mask,",
        ),
        "the mask is ignored": ("attn_mask=mask,", "attn_mask=None,"),
    },
}
