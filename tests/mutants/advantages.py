"""Plausible mistakes in advantages.py."""

MUTANTS = {
    "group_advantages": {
        "the group's mean is not subtracted": (
            "        advantages = centred\n",
            "        advantages = rewards\n",
        ),
        "the mean is over the prompts, not over the group": (
            "centred.mean(1, keepdim=True)",
            "centred.mean(0, keepdim=True)",
        ),
        "the group's deviation divides by n, not by n - 1": (
            "centred.std(1, keepdim=True)",
            "centred.std(1, keepdim=True, correction=0)",
        ),
        "divides by the variance": ("centred.std(1, keepdim=True)", "centred.var(1, keepdim=True)"),
        "the deviation is over the prompts, not over the group": (
            "centred.std(1, keepdim=True)",
            "centred.std(0, keepdim=True)",
        ),
        "eps is left out": ("centred.std(1, keepdim=True) + eps", "centred.std(1, keepdim=True)"),
        "the batch's deviation is that of the centred rewards": (
            "(rewards - rewards[0, 0]).std()",
            "centred.std()",
        ),
        "leave-one-out still counts the completion itself": (
            "(group_size / (group_size - 1))",
            "1",
        ),
        "leave-one-out is turned round": (
            "(group_size / (group_size - 1))",
            "((group_size - 1) / group_size)",
        ),
        "what is right is punished: baseline minus reward": (
            "centred = rewards - rewards[:, :1]",
            "centred = rewards[:, :1] - rewards",
        ),
        "baseline='none' subtracts the mean all the same": (
            "advantages = rewards\n",
            "advantages = centred\n",
        ),
        "scale='none' is ignored": ('if scale == "none":', 'if scale == "nothing":'),
        "a group that agrees is left to rounding": (
            "centred = rewards - rewards[:, :1]",
            "centred = rewards",
        ),
        "0 / 0 where a group agrees and eps is 0": (
            "torch.where(agree, 0, advantages / torch.where(agree, 1, divisor))",
            "advantages / divisor",
        ),
    },
    "process_advantages": {
        "the completions of a group are taken to lie P rows apart: repeat, not repeat_interleave": (
            ".view(-1, group_size)  # [P,G]",
            ".view(group_size, -1).T  # [P,G]",
        ),
        "all groups are compared with each other": ('"dim": (1, 2)', '"dim": (0, 1, 2)'),
        "each completion is compared with its own steps": ('"dim": (1, 2)', '"dim": 2'),
        "every token counts as a step": (
            "centred = torch.where(counted, centred - mean, 0)",
            "centred = centred - mean",
        ),
        "the mean is over all tokens, not over the steps": (
            "/ steps.clamp(min=1)\n",
            "/ counted[0].numel()\n",
        ),
        "the deviation divides by n, not by n - 1": ("(steps - 1).clamp", "steps.clamp"),
        "a token gets its own step and all earlier ones": (
            "scaled.flip(2).cumsum(2).flip(2)",
            "scaled.cumsum(2)",
        ),
        "later steps are not added up": ("scaled.flip(2).cumsum(2).flip(2)", "scaled"),
        "eps is left out": ("min=1)).sqrt() + eps", "min=1)).sqrt()"),
    },
    "gae": {
        "lambda is left out": ("gamma * lam * next_advantage", "gamma * next_advantage"),
        "gamma discounts the value but not the advantage": (
            "gamma * lam * next_advantage",
            "lam * next_advantage",
        ),
        "gamma does not discount the next value": ("gamma * next_value", "next_value"),
        "runs from the first token to the last": (
            "reversed(range(rewards.shape[1]))",
            "range(rewards.shape[1])",
        ),
        "the token's own value is not subtracted": (" - values[:, t]\n", "\n"),
        "the returns forget the value": (
            "torch.where(counted, advantages + values, 0)",
            "advantages",
        ),
        "the returns are rewards, not advantages plus values": (
            "torch.where(counted, advantages + values, 0)",
            "torch.where(counted, rewards + values, 0)",
        ),
        "a masked token's value follows the last one that counts": (
            "next_value = torch.where(counted[:, t], values[:, t], next_value)",
            "next_value = values[:, t]",
        ),
        "a masked token interrupts the sum": (
            "next_advantage = torch.where(counted[:, t], advantage, next_advantage)",
            "next_advantage = torch.where(counted[:, t], advantage, 0)",
        ),
        "the mask is ignored": ("counted = mask != 0", "counted = mask == mask"),
        "masked tokens take part in the sum": (
            "next_advantage = torch.where(counted[:, t], advantage, next_advantage)\n"
            "        next_value = torch.where(counted[:, t], values[:, t], next_value)",
            "next_advantage, next_value = advantage, values[:, t]",
        ),
        "a masked token ends the sequence": (
            "next_advantage = torch.where(counted[:, t], advantage, next_advantage)\n"
            "        next_value = torch.where(counted[:, t], values[:, t], next_value)",
            "next_advantage = torch.where(counted[:, t], advantage, 0)\n"
            "        next_value = torch.where(counted[:, t], values[:, t], 0)",
        ),
        "masked tokens get a return": (
            "torch.where(counted, advantages + values, 0)",
            "advantages + values",
        ),
        "masked tokens get an advantage": (
            "advantages[:, t] = torch.where(counted[:, t], advantage, 0)",
            "advantages[:, t] = advantage",
        ),
        "lambda is 1 by default": ("lam: float = 0.95", "lam: float = 1.0"),
        "gradients flow into the targets": ("@torch.no_grad()\n", ""),
    },
    "whiten": {
        "masked entries count in the mean": (
            "mean = masked_mean(x, counted)",
            "mean = torch.where(counted, x, 0).mean()",
        ),
        "divides by the variance": ("torch.rsqrt(", "torch.reciprocal("),
        "the variance divides by n - 1": (
            "masked_mean(centred.square(), counted)",
            "centred.square().sum() / (counted.sum() - 1).clamp(min=1)",
        ),
        "whitens each sequence by itself": (
            "masked_mean(centred.square(), counted)",
            "masked_mean(centred.square(), counted, 1)[:, None]",
        ),
        "shift_mean does the opposite": (
            "white if shift_mean else white + mean",
            "white + mean if shift_mean else white",
        ),
        "the mean is lost when it should stay": ("white if shift_mean else white + mean", "white"),
        "masked entries are not set to 0": (
            "return torch.where(counted, white if shift_mean else white + mean, 0)",
            "return white if shift_mean else white + mean",
        ),
        "rounding of equal numbers is scaled up": (
            "centred = centred - masked_mean(centred, counted)",
            "centred = centred + 0",
        ),
    },
}
