"""Lines that solve the exercises: what a student may write in the place of `raise`.

With them a stub must pass every test, so that what is given around those lines is enough.
"""

SOLUTIONS = {
    "stats.standard_error": """
        return (p * (1 - p) / n) ** 0.5
    """,
    "stats.wilson_interval": """
        z = NormalDist().inv_cdf(1 - (1 - level) / 2)
        spread = z**2 / n
        root = z * (p * (1 - p) / n + spread / n / 4) ** 0.5
        ends = [(p + spread / 2 + sign * root) / (1 + spread) for sign in (-1, 1)]
        return (ends[0] if successes else 0.0), (ends[1] if successes < n else 1.0)
    """,
    "stats.mcnemar_p": """
        coins = gained + lost
        tail = sum(math.comb(coins, heads) for heads in range(min(gained, lost) + 1))
        return min(1.0, 2 * tail / 2**coins)
    """,
    "verify.extract_answer": """
        def last_box(text):
            opened, boxes, i = [], [], 0
            while i < len(text):
                if text.startswith("\\\\boxed", i):
                    after = text[i + 6 :]
                    if after.lstrip().startswith("{"):
                        i += 6 + len(after) - len(after.lstrip()) + 1
                        opened.append(i)
                        continue
                if text[i] == "\\\\" and text[i + 1 : i + 2] in ("{", "}", "\\\\"):
                    i += 2
                    continue
                if text[i] == "{":
                    opened.append(None)
                elif text[i] == "}" and opened and (start := opened.pop()) is not None:
                    boxes.append((start, i))
                i += 1
            return text[slice(*max(boxes))].strip() if boxes else None

        head, tag, _ = text.rpartition("</answer>")
        if not tag or "<answer>" not in head:
            return last_box(text)
        start = head.rindex("<answer>") + len("<answer>")
        answer = text[start : text.index("</answer>", start)]
        return last_box(answer) if "\\\\boxed" in answer else answer.strip()
    """,
    "tokenizer.train_bpe": """
        learned = []
        for new in range(256, 256 + merges):
            pairs = [pair for piece in pieces for pair in zip(piece, piece[1:])]
            if not pairs:
                raise ValueError(f"texts hold {len(learned)} merges, expected {merges}")
            counts = {pair: 0 for pair in pairs}
            for pair in pairs:
                counts[pair] += 1
            best = min(counts, key=lambda pair: (-counts[pair], pair))
            for piece in pieces:
                i = 0
                while i + 1 < len(piece):
                    if (piece[i], piece[i + 1]) == best:
                        piece[i : i + 2] = [new]
                    i += 1
            learned.append(best)
        return learned
    """,
    "model.rotate": """
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    """,
    "model.attend": """
        share = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(share, 2), value.repeat_interleave(share, 2)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is None and scores.shape[-2] > 1:
            mask = torch.ones(scores.shape[-2:]).tril().bool()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ value).transpose(1, 2)
    """,
    "stats.majority_vote": """
        seen, votes = [], []
        for answer in answers:
            if answer is None:
                continue
            for i, other in enumerate(seen):
                if equal(other, answer):
                    votes[i] += 1
                    break
            else:
                seen.append(answer)
                votes.append(1)
        return seen[votes.index(max(votes))] if seen else None
    """,
    "stats.weighted_vote": """
        seen, votes = [], []
        for answer, weight in zip(answers, weights):
            if answer is None:
                continue
            for i, other in enumerate(seen):
                if equal(other, answer):
                    votes[i] += float(weight)
                    break
            else:
                seen.append(answer)
                votes.append(float(weight))
        return seen[votes.index(max(votes))] if seen else None
    """,
    "stats.pass_at_k": """
        return 1 - math.comb(n - c, k) / math.comb(n, k)
    """,
    "losses.masked_mean": """
        counted = mask != 0
        return torch.where(counted, x, 0).sum(dim) / counted.sum(dim).clamp(min=1)
    """,
    "losses.sft_loss": """
        logprobs = losses.token_logprobs(logits, torch.where(mask != 0, targets, 0))
        return losses.masked_mean(-logprobs, mask)
    """,
    "sft.batch_rows": """
        places = [divmod(step * batch + i, examples) for i in range(batch)]
        return [shuffled(examples, seed, passes)[i] for passes, i in places]
    """,
    "losses.bradley_terry_loss": """
        return torch.nn.functional.softplus(rejected + margin - chosen).mean()
    """,
    "reward_quality.best_of_n_kl": """
        return math.log(n) - 1 + 1 / n
    """,
    "reward_quality.expected_best_of_n": """
        even = [true[proxy == r].mean() for r in proxy]
        ranked = [even[i] for i in np.argsort(proxy)]
        total = math.comb(len(proxy), n)
        return sum(v * (math.comb(i, n - 1) / total) for i, v in enumerate(ranked))
    """,
    "advantages.gae": """
        with torch.no_grad():
            value = advantage = torch.zeros_like(advantages[:, 0])
            for t in range(advantages.shape[1] - 1, -1, -1):
                counted = mask[:, t] != 0
                delta = rewards[:, t] + gamma * value - values[:, t]
                advantage = torch.where(counted, delta + gamma * lam * advantage, advantage)
                value = torch.where(counted, values[:, t], value)
                advantages[:, t] = torch.where(counted, advantage, 0)
            return advantages.detach(), torch.where(mask != 0, advantages + values, 0).detach()
    """,
    "advantages.whiten": """
        mean = losses.masked_mean(x, mask)
        centred = torch.where(mask != 0, x - mean, 0)
        centred = centred - losses.masked_mean(centred, mask)
        white = centred / (losses.masked_mean(centred**2, mask) + 1e-8).sqrt()
        return torch.where(mask != 0, white if shift_mean else white + mean, 0)
    """,
    "losses.value_loss": """
        counted = mask != 0
        values = torch.where(counted, values, 0)
        old_values, returns = (torch.where(counted, x.detach(), 0) for x in (old_values, returns))
        held = values.clamp(old_values - clip, old_values + clip)
        worse = torch.maximum((values - returns) ** 2, (held - returns) ** 2)
        return losses.masked_mean(worse, counted) / 2
    """,
    "losses.kl_estimate": """
        log_ratio = reference - policy
        if kind == "k1":
            estimate = -log_ratio
        elif kind == "k2":
            estimate = log_ratio**2 / 2
        else:
            estimate = bounded_expm1(log_ratio) - log_ratio
    """,
    "ppo.adapt_kl_coef": """
        error = max(-0.2, min(0.2, kl / target - 1))
        return coef * (1 + error * n / horizon)
    """,
    "advantages.group_advantages": """
        centred = rewards - rewards[:, :1]
        centred = centred - centred.mean(1, keepdim=True)
        result = rewards if baseline == "none" else centred
        if baseline == "leave_one_out":
            result = centred * group_size / (group_size - 1)
        if scale == "none":
            return result
        deviation = centred.std(1, keepdim=True)
        if scale == "batch_std":
            deviation = (rewards - rewards[0, 0]).std() + 0 * deviation
        return torch.where(deviation + eps == 0, 0, result / (deviation + eps))
    """,
    "losses.aggregate_tokens": """
        x = torch.where(mask != 0, x, 0)
        if aggregate == "constant":
            return x.sum() / (len(x) * max_tokens)
        if aggregate == "token_mean":
            return losses.masked_mean(x, mask)
        return losses.masked_mean(x, mask, dim=1).mean()
    """,
    "losses.aggregate_share": """
        if aggregate == "token_mean":
            return counted / total.clamp(min=1)
        return torch.tensor(len(mask) / total_sequences)
    """,
    "rewards.combine": """
        return float(sum(weights[name] * earned for name, earned in parts.items()))
    """,
    "compute.grpo_step_flops": """
        tokens = [p + sum(group) for p, group in zip(prompt_lengths, lengths)]
        learned = [n for n, paid in zip(tokens, rewards) if reference or min(paid) < max(paid)]
        return 2 * parameters * sum(tokens) + (8 if reference else 6) * epochs * parameters * sum(
            learned
        )
    """,
    "imitation.select_samples": """
        rows = [i for i in range(len(texts)) if correct[i] == 1 and finished[i]]
        if len(rows) == len(texts) and all_right == "drop":
            return []
        if keep == "shortest":
            rows = sorted(rows, key=lambda i: lengths[i])
        if duplicates == "drop":
            rows = [i for n, i in enumerate(rows) if texts[i] not in [texts[j] for j in rows[:n]]]
        return rows[: per_prompt or len(rows)]
    """,
    "stats.mixed_group_chance": """
        dead = math.comb(c, group_size) + math.comb(n - c, group_size)
        return 1 - dead / math.comb(n, group_size)
    """,
    "rewards.repetition_penalty": """
        words = completion.split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return -maximum * (1 - len(set(grams)) / len(grams)) if grams else 0.0
    """,
    "rewards.language_reward": """
        words = rewards._WORD.findall(rewards._NOT_WORDS.sub(" ", text))
        ours = [
            all(rewards._alphabet(letter) == alphabet for letter in word if letter.isalpha())
            for word in words
        ]
        return sum(ours) / len(ours) if ours else 1.0
    """,
    "rewards.format_reward": """
        text = "<think>" * prefilled + completion
        once = all(text.count(t) == 1 for t in ("<think>", "</think>", "<answer>", "</answer>"))
        pattern = r"<think>.*</think>\\s*<answer>.*</answer>"
        return float(once and re.fullmatch(pattern, text.strip(), re.DOTALL) is not None)
    """,
    "rewards.rule_reward": """
        number = re.compile(r"[-+]?[0-9][0-9,]*([.][0-9]+)?")
        thought = re.match(r"\\s*<think>(.*?)</think>", completion, re.DOTALL)
        if not verify.check_format(completion) or not re.search(r"[^\\W_]", thought[1]):
            return 0.0
        prediction = verify.extract_answer(completion)
        if prediction is None or (number.fullmatch(answer) and not number.fullmatch(prediction)):
            return form
        return 1.0 if verify.math_equal(prediction, answer) else form
    """,
    "lengths.overlong_penalty": """
        begins = max_length - cache_length
        if length <= begins:
            return 0.0
        if length >= max_length:
            return -1.0
        return (begins - length) / cache_length
    """,
    "losses.probability_ratio": """
        counted = mask != 0
        change = torch.where(counted, logprobs, 0) - torch.where(counted, old_logprobs.detach(), 0)
        if ratio == "sequence":
            change = losses.masked_mean(change, counted, dim=1)[:, None].expand_as(change)
        return torch.where(counted, losses._bounded_exp(change), 1)
    """,
    "rollouts.fill_with_mixed": """
        mixed, others = [], []
        for at in range(rounds):
            missing = wanted - len(mixed)
            if missing:
                for group, worth in enumerate(checked(draw(missing), missing)):
                    (mixed if worth.max() > worth.min() else others).append((at, group))
        return (mixed + others)[:wanted]
    """,
    "lengths.lcpo_exact": """
        return correct - alpha * abs(target - length)
    """,
    "lengths.lcpo_max": """
        worth = min(1.0, max(0.0, delta + alpha * (target - length)))
        return worth * correct
    """,
    "lengths.kimi_length_reward": """
        low, high = min(sizes), max(sizes)
        if high > low:
            rewards = [0.5 - (size - low) / (high - low) for size in sizes]
        rewards = [r if good else min(r, 0.0) for r, good in zip(rewards, right)]
    """,
    "losses.dpo_loss": """
        gap = (chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach())
        return F.softplus(-beta * gap, threshold=100).mean()
    """,
    "preferences.shortest_right_pairs": """
        best = None
        for i in range(len(correct)):
            if correct[i] >= 1 and finished[i] and (best is None or lengths[i] < lengths[best]):
                best = i
        if best is None:
            return []
        pairs = []
        for i in range(len(correct)):
            factor = longer if correct[i] >= 1 else 1
            if lengths[i] > factor * lengths[best]:
                pairs.append((best, i))
        return pairs
    """,
}
