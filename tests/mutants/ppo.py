"""Plausible mistakes in ppo.py."""

MUTANTS = {
    "token_rewards": {
        "labels are a mask": ("check_mask(mask,", 'check_shape("mask", mask,'),
        "leaving the reference is rewarded": ("-kl_coef * kl", "kl_coef * kl"),
        "the score comes with every token": ("counted & (left == 1)", "counted"),
        "the score comes with the first token": (
            "left = counted.flip(1).cumsum(1).flip(1)",
            "left = counted.cumsum(1)",
        ),
        "the score comes in the last column, be it padding or not": (
            "counted & (left == 1)",
            "torch.arange(kl.shape[1]) == kl.shape[1] - 1",
        ),
        "the score comes one token too early": ("left == 1", "left == 2"),
        "what was masked inside a completion is taken for its end": (
            "counted & (left == 1)",
            "counted & ((counted.cumprod(1) * counted.cumsum(1)).argmax(1, keepdim=True)"
            " == torch.arange(kl.shape[1]))",
        ),
        "kl_coef is left out": ("-kl_coef * kl", "-kl"),
        "the score replaces the last token's KL": (
            "return penalty + torch.where(counted & (left == 1), scores[:, None], 0)",
            "return torch.where(counted & (left == 1), scores[:, None], penalty)",
        ),
        "masked tokens pay as well": ("torch.where(counted, -kl_coef * kl, 0)", "-kl_coef * kl"),
        "gradients flow into the rewards": ("@torch.no_grad()\n", ""),
    },
    "adapt_kl_coef": {
        "too much KL lowers the weight": ("(1 + error", "(1 - error"),
        "the error is not held at a fifth": (
            "min(max(kl / target - 1, -0.2), 0.2)",
            "kl / target - 1",
        ),
        "the error is absolute, not relative to the target": ("kl / target - 1", "kl - target"),
        "only the rise is held": (
            "min(max(kl / target - 1, -0.2), 0.2)",
            "min(kl / target - 1, 0.2)",
        ),
        "a step counts as one, however many completions it has": ("error * n /", "error /"),
        "the horizon is left out": ("error * n / horizon", "error * n"),
        "the weight is moved by, not multiplied": (
            "return coef * (1 + error * n / horizon)",
            "return coef + error * n / horizon",
        ),
    },
    "explained_variance": {
        "labels are a mask": ("check_mask(mask,", 'check_shape("mask", mask,'),
        "one minus is left out": ("1 - missed /", "missed /"),
        "a constant error counts against the critic": (
            "(x - masked_mean(x, counted)).square(), counted)",
            "(x - (x is returns) * masked_mean(x, counted)).square(), counted)",
        ),
        "divides by the variance of the values": (
            "for x in (returns - values, returns)",
            "for x in (returns - values, values)",
        ),
        "the variance of the values over that of the returns": (
            "for x in (returns - values, returns)",
            "for x in (values, returns)",
        ),
        "masked entries count": ("counted = mask != 0", "counted = mask == mask"),
        "0 / 0 where the returns do not vary": (
            "return torch.where(varies, 1 - missed / torch.where(varies, spread, 1), 0)",
            "return 1 - missed / spread",
        ),
        "rounding counts as variance": ("spread > 1e-12 *", "spread > 0 *"),
        "gradients flow": ("@torch.no_grad()\n", ""),
    },
    "ppo_preset": {
        "changes are lost": ("{**PPO_PRESETS[name], **changes}", "PPO_PRESETS[name]"),
        "the preset overrules the changes": (
            "{**PPO_PRESETS[name], **changes}",
            "{**changes, **PPO_PRESETS[name]}",
        ),
        "the preset is lost": ("{**PPO_PRESETS[name], **changes}", "changes"),
    },
    "train_ppo": {
        "the critic learns from whitened advantages": (
            "credit = Credit.of(groups, values, advantages, returns)",
            "credit = Credit.of(groups, values, advantages, advantages + values)",
        ),
        "whitens when told not to": ("if s.whiten:", "if not s.whiten:"),
        "lambda and gamma are exchanged": ("gamma=s.gamma, lam=s.lam", "gamma=s.lam, lam=s.gamma"),
        "the reference is the policy itself, so the KL is always 0": (
            "copy.deepcopy(policy).requires_grad_(False)",
            "policy",
        ),
        "the KL is that of another estimator": ('kind="k1"', 'kind="k3"'),
        "the KL weight is not adapted": ("if s.kl_target:", "if False:"),
        "the KL weight starts anew when a run goes on": (
            'state.get("kl_coef", s.kl_coef)',
            "s.kl_coef",
        ),
        "the critic is not saved": (
            "run.end_step(step, stats, s, both,",
            'run.end_step(step, stats, s, nn.ModuleDict({"policy": policy}),',
        ),
        "one pass instead of several": ("for _ in range(s.epochs):", "for _ in range(1):"),
        "what ended is punished, not what was cut off": (
            "torch.where(batch.rollout.finished, scores, s.unfinished_reward)",
            "torch.where(batch.rollout.finished, s.unfinished_reward, scores)",
        ),
        "an unfinished completion's reward of 0 is taken for none": (
            "if s.unfinished_reward is not None:",
            "if s.unfinished_reward:",
        ),
        "the critic learns from the policy's old values instead of the returns": (
            "Credit.of(groups, values, advantages, returns)",
            "Credit.of(groups, returns, advantages, values)",
        ),
        "the critic's rate is the policy's": (
            "credit, shares, critic_lr, s)",
            "credit, shares, lr, s)",
        ),
        "the problems begin anew when a run goes on": (
            'problems.restore(state.get("problems"))',
            "pass",
        ),
    },
    "rates": {
        "the policy learns during the critic's warm-up": (
            "if own >= 0 else 0.0",
            "if True else 0.0",
        ),
        "the policy's own warm-up is spent before it begins": (
            "own, left = step - s.critic_warmup, s.steps - s.critic_warmup",
            "own, left = step if step >= s.critic_warmup else -1, s.steps",
        ),
    },
    "policy_part": {
        "the lower clip is the upper one": ("clip_high=s.clip_high", "clip_high=s.clip_low")
    },
}
