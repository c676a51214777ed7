"""Plausible mistakes in dpo.py."""

MUTANTS = {
    "train_dpo": {
        "the reference moves along with a resumed run": (
            'start = run.restore(policy, optimizer)["step"]\n',
            'start = run.restore(policy, optimizer)["step"]\n'
            "    known = with_reference(policy, known, s.micro_tokens)\n",
        ),
        "the reference is the policy of the step": (
            "batch = [known[row] for row in rows]",
            "batch = with_reference(policy, [known[row] for row in rows], s.micro_tokens)",
        ),
        "there is no reference": (
            "with_reference(policy, encode_pairs(policy, tokenizer, pairs), s.micro_tokens)",
            "encode_pairs(policy, tokenizer, pairs)",
        ),
        "starts again when resumed": ('["step"]', '["step"] * 0'),
        "the order of a resumed run is another one": (
            "s.batch, step, s.seed)",
            "s.batch, step - start, s.seed)",
        ),
        "the seed is ignored": ("step, s.seed)", "step, 0)"),
        "the rate never moves": ("lr=lr,\n", "lr=s.lr,\n"),
        "a step averages over all pairs that there are": (
            "part_losses(policy, batch, s, s.batch, found)",
            "part_losses(policy, batch, s, len(known) + 1, found)",
        ),
        "an evaluation that would never come is taken": (
            "if evaluate is not None and not s.evaluate_every:",
            "if False:",
        ),
    },
    "part_losses": {
        "chosen and rejected are exchanged": (
            "chosen, rejected = completion_logprobs",
            "rejected, chosen = completion_logprobs",
        ),
        "pairs side by side are read as chosen, then rejected": (
            ".chunk(2)",
            ".view(-1, 2).unbind(1)",
        ),
        "a micro-batch counts as much as any other": (
            "share = len(pairs) / count",
            "share = 1 / max(1, len(batch))",
        ),
        "micro-batches are added up": ("share = len(pairs) / count", "share = 1"),
        "beta is ignored": ("beta=s.beta", "beta=0.1"),
        "the references are exchanged": (
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected,",
            "dpo_loss(chosen, rejected, ref_rejected, ref_chosen,",
        ),
        "a tie is wrong": ("torch.where(gap.abs() < TIE, 0.5,", "torch.where(gap == 99, 0.5,"),
        "the likelihood of the whole completion": ("(chosen / tokens).mean()", "chosen.mean()"),
        "the likelihood by characters of the rejected one": (
            "for ids, start in rows[: len(pairs)]]",
            "for ids, start in rows[len(pairs) :]]",
        ),
        "the chosen one is made less likely": ("loss - s.nll_coef", "loss + s.nll_coef"),
        "its prompt counts among its tokens": ("[len(ids) - start for", "[len(ids) for"),
        "rewards are logged without beta": (
            "[s.beta * gap, s.beta * gains[0], s.beta * gains[1]]",
            "[gap, gains[0], gains[1]]",
        ),
    },
    "completion_logprobs": {
        "the mean, not the sum": (".sum(1)", ".sum(1) / counted.sum(1).clamp(min=1)"),
        "the prompt counts": ("(starts <= places) & (places < ends)", "places < ends"),
        "padding counts": ("(starts <= places) & (places < ends)", "starts <= places"),
        "the end token does not count": ("(places < ends)", "(places < ends - 1)"),
        "the completion's first token does not count": ("(starts <= places)", "(starts < places)"),
        "the prompt's last token counts": ("(starts <= places)", "(starts - 1 <= places)"),
        "logits are read at the token itself": (
            "logits = model(tokens[:, :-1])",
            "logits = model(tokens)[:, 1:]",
        ),
        "padded on the left": (
            "[*ids, *[0] * (longest - len(ids))]",
            "[*[0] * (longest - len(ids)), *ids]",
        ),
    },
    "with_reference": {
        "in the order of their lengths": ("logprobs[part] = ", "logprobs[part.sort()[0]] = "),
        "chosen and rejected are exchanged": (
            "zip(pairs, logprobs[0::2].tolist(), logprobs[1::2].tolist(), strict=True)",
            "zip(pairs, logprobs[1::2].tolist(), logprobs[0::2].tolist(), strict=True)",
        ),
        "the first half is chosen": (
            "logprobs[0::2].tolist(), logprobs[1::2].tolist()",
            "*(half.tolist() for half in logprobs.chunk(2))",
        ),
    },
    "encode_pairs": {
        "no end token": ("([tokenizer.eos_id] if ended else [])", "[]"),
        "what was cut off ends all the same": (
            "([tokenizer.eos_id] if ended else [])",
            "[tokenizer.eos_id]",
        ),
        "who was cut off is exchanged": ("finished, strict=True)", "finished[::-1], strict=True)"),
        "a merge crosses the border of prompt and completion": (
            "[*prompt, *tokenizer.encode(text), *",
            "[*tokenizer.encode(pair.prompt + text), *",
        ),
        "one token too many is taken": (
            "> model.config.max_positions:",
            "> model.config.max_positions + 1:",
        ),
        "an empty prompt is taken": ("if not prompt:", "if prompt is None:"),
    },
}
