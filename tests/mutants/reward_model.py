"""Plausible mistakes in reward_model.py."""

MUTANTS = {
    "train_reward_model": {
        "pairs of a prompt come in steps of their own": (
            "compared = encode_pairs(model, tokenizer, pairs)",
            "compared = [c for p in pairs for c in encode_pairs(model, tokenizer, [p])]",
        ),
        "a part weighs by prompts, not by pairs": (
            "sum(len(prompt.chosen) for prompt in batch)",
            "len(batch)",
        ),
        "starts again when resumed": ('["step"]', '["step"] * 0'),
        "the order of a resumed run is another one": (
            "batch_rows(len(compared), s.batch, step, s.seed)",
            "batch_rows(len(compared), s.batch, step - start, s.seed)",
        ),
        "the seed is ignored": ("step, s.seed)", "step, 0)"),
        "the rate never moves": ("lr=lr,\n", "lr=s.lr,\n"),
        "margin and score are exchanged": (
            '("loss", "accuracy", "margin", "score")',
            '("loss", "accuracy", "score", "margin")',
        ),
        "an evaluation that would never come is taken": (
            "if evaluate is not None and not s.evaluate_every:",
            "if False:",
        ),
    },
    "part_losses": {
        "chosen and rejected are exchanged": (
            "first, second = rewards[chosen], rewards[rejected]",
            "second, first = rewards[chosen], rewards[rejected]",
        ),
        "a micro-batch counts as much as any other": (
            "share = len(chosen) / count",
            "share = 1 / max(1, len(batch))",
        ),
        "a micro-batch weighs by its completions": (
            "share = len(chosen) / count",
            "share = len(rows) / count",
        ),
        "pairs of the second prompt read rows of the first": (
            "chosen += [len(rows) + i for i in prompt.chosen]",
            "chosen += prompt.chosen",
        ),
        "the margin is left out": (", margin=first.new_tensor(margins))", ")"),
        "the margin is the whole batch's mean": (
            "margin=first.new_tensor(margins)",
            "margin=sum(margins) / len(margins)",
        ),
        "the margin is asked of the rejected one": (
            "margin=first.new_tensor(margins)",
            "margin=-first.new_tensor(margins)",
        ),
        "centring of the difference, which undoes the learning": (
            "(first + second).square()",
            "(first - second).square()",
        ),
        "centring of the mean of the batch": (
            "(first + second).square().mean()",
            "(first + second).mean().square()",
        ),
        "centring is never weighted": ("s.centring * ", "1.0 * "),
        "a tie is wrong": ("(gap.sign() + 1) / 2", "(gap > 0).float()"),
    },
    "final_scores": {
        "read at the last column, which may be padding": (
            "last = torch.tensor([len(ids) - 1 for ids in rows], device=device)",
            "last = torch.tensor([longest - 1 for ids in rows], device=device)",
        ),
        "read one too early, at the token before the end": (
            "len(ids) - 1 for ids",
            "max(len(ids) - 2, 0) for ids",
        ),
        "the mean over all tokens": (
            "model.body.hidden(tokens)[torch.arange(len(rows), device=device), last]",
            "model.body.hidden(tokens).mean(1)",
        ),
        "padded on the left": (
            "[*ids, *[0] * (longest - len(ids))]",
            "[*[0] * (longest - len(ids)), *ids]",
        ),
    },
    "encode_finished": {
        "no end token": (", tokenizer.eos_id]", "]"),
        "the completion is judged without its prompt": ("[*tokenizer.encode(prompt), ", "["),
        "the end token stands before the completion": (
            "*tokenizer.encode(completion), tokenizer.eos_id]",
            "tokenizer.eos_id, *tokenizer.encode(completion)]",
        ),
    },
    "encode_pairs": {
        "the same text of two prompts is one": (
            "prompts.setdefault(pair.prompt, Compared())",
            'prompts.setdefault("", Compared())',
        ),
        "a completion of two pairs is run twice": (
            "if (pair.prompt, text) not in places:",
            "if True:",
        ),
        "one token too many is taken": ("if len(ids) > limit:", "if len(ids) > limit + 1:"),
        "chosen and rejected are exchanged": (
            "((pair.chosen, compared.chosen), (pair.rejected, compared.rejected))",
            "((pair.chosen, compared.rejected), (pair.rejected, compared.chosen))",
        ),
    },
    "score": {
        "in the order of their lengths": (
            "rewards[part.to(rewards.device)] = ",
            "rewards[(part * 0).cumsum(0) + torch.arange(len(part))] = ",
        ),
        "a long completion loses its end token": (
            "ids = [*ids[: limit - 1], tokenizer.eos_id]",
            "ids = ids[:limit]",
        ),
        "a long completion is cut in front": (
            "ids = [*ids[: limit - 1], tokenizer.eos_id]",
            "ids = ids[-limit:]",
        ),
        "carries a gradient": ("@torch.no_grad()\n", ""),
    },
    "score_pairs": {
        "the rejected side is the chosen one": ("[pair.rejected for pair", "[pair.chosen for pair"),
        "exchanged": ("return chosen, score", "return chosen * -1, score"),
        "without prompts": ("[pair.prompt for pair in pairs]", '["" for pair in pairs]'),
    },
    "normalise_scores": {
        "the bias keeps the old unit": (".sub_(mean).div_(deviation)", ".sub_(mean)"),
        "the deviation of a sample": ("std(correction=0)", "std(correction=1)"),
        "the weight keeps the old unit": ("model.score.weight.div_(deviation)", "pass"),
        "rounding is taken for a difference": ("> 1e-5 * size", "> 0"),
        "the size of the sum alone counts": (
            "rewards.abs().max() + model.score.weight.norm() + model.score.bias.abs().sum()",
            "rewards.abs().max()",
        ),
        "what differs is taken for rounding": ("> 1e-5 * size", "> 1e-2 * size"),
        "multiplied": ("model.score.weight.div_", "model.score.weight.mul_"),
    },
    "proxy_reward": {
        "the truth is paid on top": ("[reward - true for", "[reward for"),
        "the truth alone is paid": ("[reward - true for", "[0.0 * reward for"),
        "the reward model is told the answer": ("[p.prompt for p", "[p.prompt + p.answer for p"),
        "everything is called correct": ("[task.score(p, text) for", "[1.0 for"),
    },
}  # fmt: skip
