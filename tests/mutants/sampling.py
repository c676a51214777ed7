"""Plausible mistakes in sampling.py."""

MUTANTS = {
    "choose": {
        "top-p leaves out the token that reaches it": (
            "ordered.cumsum(-1) - ordered >= top_p",
            "ordered.cumsum(-1) > top_p",
        ),
        "top-p keeps one token too many": (
            "ordered.cumsum(-1) - ordered >= top_p",
            "ordered.cumsum(-1) - ordered > top_p",
        ),
        "top-p keeps the improbable tokens": ("dim=-1, descending=True", "dim=-1"),
        "top-p puts the probabilities back in the wrong places": (
            "probabilities.scatter(-1, order, ordered.masked_fill(outside, 0))",
            "ordered.masked_fill(outside, 0)",
        ),
        "what top-p took away falls to the last token": ("uniform * total,", "uniform,"),
        "log-probabilities are of what top-p left": (
            "    cumulative = probabilities.cumsum(-1)\n",
            "    logprobs = (probabilities / probabilities.sum(-1, keepdim=True)).log()\n"
            "    cumulative = probabilities.cumsum(-1)\n",
        ),
        "log-probabilities are at temperature 1": (
            "logprobs.gather(-1, chosen).squeeze(-1)",
            "logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)",
        ),
        "multiplies by the temperature": ("logits / temperature", "logits * temperature"),
        "the temperature is ignored": ("logits / temperature", "logits"),
        "greedy takes the least likely": ("logits.argmax(-1)", "logits.argmin(-1)"),
        "every row chooses by the first row's number": ("uniform * total", "uniform[0] * total"),
        "a number of 0 takes an impossible token": ("right=True", "right=False"),
        "rounding goes past the last possible token": (
            "torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))",
            "uniform * total + torch.finfo(total.dtype).eps * total",
        ),
    }
}
