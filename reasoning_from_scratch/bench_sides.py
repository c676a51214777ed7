"""The two sides of the benchmark: one GRPO step of ours and one of TRL's, of exactly equal work.

Both start from the same exported weights, and take the same number of prompt and completion tokens
a step: the end token is one that no vocabulary has, so no completion ends before its time.

TRL gets its fastest settings on a CPU: no gradient checkpointing, float32, no reference model, no
entropy bonus, no logging, no saving. Which micro-batch is fastest is tried in `bench.py`.
"""

import importlib
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType

import torch

from reasoning_from_scratch.advantages import group_advantages
from reasoning_from_scratch.grpo import GRPOSettings, PolicyLosses
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.pretrained import load_pretrained
from reasoning_from_scratch.problem_streams import ProblemStream
from reasoning_from_scratch.rollouts import Batch, collect, score
from reasoning_from_scratch.sampling import Rollout, sample
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.training import learning_rate, make_optimizer, optimiser_step

TRL_SCALES = {"group_std": "group", "batch_std": "batch", "none": "none"}
TRL_LOSSES = {"sequence_mean": "grpo", "token_mean": "dapo", "constant": "dr_grpo"}
BETAS = (0.9, 0.95)  # of AdamW, those of `make_optimizer`


@dataclass(frozen=True)
class Shape:
    """How much work a step is: every prompt and every completion has the same length."""

    prompts: int = 16
    group_size: int = 8
    prompt_tokens: int = 16
    new_tokens: int = 48

    @property
    def batch(self) -> int:
        """Completions."""
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of all completions."""
        return self.batch * (self.prompt_tokens + self.new_tokens)

    def settings(self, steps: int) -> GRPOSettings:
        """Return what both sides train with; the small rate leaves the policy as it is."""
        return GRPOSettings(
            steps=steps,
            prompts=self.prompts,
            group_size=self.group_size,
            max_new_tokens=self.new_tokens,
            aggregate="token_mean",
            lr=1e-6,
            warmup=0,
        )


class Digits(Task):
    """Prompts of exactly `length` tokens, as each digit is one; the reward is a hash of the text.

    The hash costs nothing and differs between completions, so that no group is without advantage:
    our loop would skip it.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def generate(self, n: int, *, seed: int, split: str) -> list[Problem]:
        random = Random(seed)
        texts = ("".join(random.choices("0123456789", k=self.length)) for _ in range(n))
        return [Problem(text, "", "") for text in texts]

    def score(self, problem: Problem, completion: str) -> float:
        return zlib.crc32(completion.encode()) / 2**32


class Ours:
    """Our GRPO step of a fixed number of tokens, in pieces that can be timed one by one."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.policy, self.tokenizer = load_pretrained(folder)
        self.tokenizer.eos_id = -1  # no token: no completion ends before its time
        self.shape, self.settings = shape, shape.settings(steps=1)
        self.task = Digits(shape.prompt_tokens)
        self.problems = ProblemStream(self.task, seed=0)
        self.optimizer = make_optimizer(self.policy, lr=self.settings.lr)
        self.generator = torch.Generator().manual_seed(0)
        self.prompts = [p.prompt for p in self.task.generate(shape.prompts, seed=1, split="train")]

    def reward(self, owners: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        return {"correct": score(self.task, owners, rollout)}

    def rollout(self) -> Batch:
        """Sample, score and compare a step's completions."""
        s = self.settings
        batch, _ = collect(
            self.policy, self.tokenizer, self.problems, self.reward, s, self.generator
        )
        check_tokens(int(batch.rollout.prompt_lengths.sum() + batch.rollout.mask.sum()), self.shape)
        rewards = batch.rewards.view(-1, s.group_size)
        batch.advantages = group_advantages(rewards, baseline=s.baseline, scale=s.scale).flatten()
        return batch

    def update(self, batch: Batch) -> None:
        """Take the optimiser step."""
        groups, s = torch.arange(self.shape.prompts), self.settings
        losses = PolicyLosses(self.policy, None, batch, groups, s)
        optimiser_step(self.policy, self.optimizer, losses, lr=s.lr, max_grad_norm=s.max_grad_norm)

    def step(self) -> dict[str, float]:
        """Take a whole step; return the seconds of its parts."""
        start = time.perf_counter()
        batch = self.rollout()
        sampled = time.perf_counter()
        self.update(batch)
        end = time.perf_counter()
        return {"step": end - start, "rollout": sampled - start, "update": end - sampled}

    def sample(self) -> None:
        """Only sample: what transformers' `generate` does."""
        sample(
            self.policy, self.tokenizer, self.prompts, group_size=self.shape.group_size,
            max_new_tokens=self.shape.new_tokens, generator=self.generator,
        )  # fmt: skip


class Theirs:
    """TRL's GRPOTrainer at the same settings; `on_step` gets the seconds of each of its steps.

    Args:
        rows:    completions in a micro-batch.
        shape:   of a race at fixed tokens; None lets completions end where they end.
        on_step: called between two steps with (seconds of the step, of its rollout).
    """

    def __init__(
        self, folder: Path, columns: dict[str, list[str]], reward: Callable[..., list[float]],
        s: GRPOSettings, *, rows: int, shape: Shape | None, scratch: Path,
        on_step: Callable[[float, float], None],
    ) -> None:  # fmt: skip
        trl, transformers, datasets = (
            required("trl"),
            required("transformers"),
            required("datasets"),
        )
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.shape, self.never = shape, self.model.config.vocab_size  # an id that no token has
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=s.lr, betas=BETAS, weight_decay=s.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate(
                step, lr=1.0, steps=s.steps, warmup=s.warmup, final=s.final_lr
            ),
        )
        config = trl.GRPOConfig(
            output_dir=str(scratch), max_steps=s.steps, seed=s.seed, shuffle_dataset=False,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=s.prompts * s.group_size // rows,
            num_generations=s.group_size, max_completion_length=s.max_new_tokens,
            temperature=s.temperature, top_p=1.0, top_k=0, num_iterations=1, beta=0.0,
            epsilon=s.clip_low, epsilon_high=s.clip_high,
            scale_rewards=TRL_SCALES[s.scale], loss_type=TRL_LOSSES[s.aggregate],
            max_grad_norm=s.max_grad_norm, gradient_checkpointing=False,
            use_cpu=True, bf16=False, fp16=False, save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=True,
            generation_kwargs={"eos_token_id": self.never} if shape else None,
        )  # fmt: skip
        self.trainer = trl.GRPOTrainer(
            self.model, reward, config, train_dataset=datasets.Dataset.from_dict(columns),
            processing_class=self.tokenizer, optimizers=(optimizer, schedule),
            callbacks=[clock(transformers.TrainerCallback, self, on_step)],
        )  # fmt: skip
        self.trainer.remove_callback(transformers.PrinterCallback)
        if shape:
            self.trainer.eos_token_ids = [self.never]
        self.rollout_seconds = 0.0
        # Private, but the only place where TRL's rollout begins and ends.
        inner = self.trainer._generate_and_score_completions

        def generate_and_score(inputs: list) -> dict:
            start = time.perf_counter()
            result = inner(inputs)
            self.rollout_seconds = time.perf_counter() - start
            return result

        self.trainer._generate_and_score_completions = generate_and_score

    @torch.no_grad()
    def generate(self, prompts: Sequence[str]) -> None:
        """Sample a group for each prompt with transformers' own `generate`."""
        prompts = [prompt for prompt in prompts for _ in range(self.shape.group_size)]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        self.model.eval()
        found = self.model.generate(
            **inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
            max_new_tokens=self.shape.new_tokens, eos_token_id=self.never,
            pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        check_tokens(found.numel(), self.shape)
        self.model.train()


def clock(callback: type, theirs: Theirs, on_step: Callable[[float, float], None]) -> object:
    """Return a callback for transformers' Trainer that times each step and checks its tokens."""

    class Clock(callback):
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.seen = theirs.trainer.state.num_input_tokens_seen
            self.start = time.perf_counter()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            seconds = time.perf_counter() - self.start
            if theirs.shape:
                seen = theirs.trainer.state.num_input_tokens_seen
                check_tokens(int(seen - self.seen), theirs.shape)
            on_step(seconds, theirs.rollout_seconds)

    return Clock()


def matmul_rate(rows: int, inner: int, columns: int) -> float:
    """Return the best rate of a float32 matrix multiplication, in operations a second."""
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)
    flops = 2 * rows * inner * columns
    count = max(3, min(50, int(5e9 / flops)))
    return flops / min(seconds_of(lambda: left @ right) for _ in range(count))


def own_matmul_rate(model: GPT, *, tokens: int = 1024) -> float:
    """Return the rate at the model's own matrix sizes: all blocks' matrices, one after another."""
    block = model.blocks[0]
    shapes = [x.weight.shape for x in (block.attention.qkv, block.attention.output)]
    shapes += [x.weight.shape for x in (block.gate_up, block.down)]
    flops = [2 * tokens * a * b for a, b in shapes]
    seconds = [f / matmul_rate(tokens, b, a) for f, (a, b) in zip(flops, shapes, strict=True)]
    return sum(flops) / sum(seconds)


def forward_flops(config: GPTConfig, *, tokens: int, pairs: int, predictions: int) -> int:
    """Return the floating-point operations of a forward pass, two a multiply-add.

    Args:
        tokens:      that go through the blocks' matrices.
        pairs:       of a token and one that it attends to, itself included.
        predictions: positions at which the head is needed.
    """
    c = config
    attention = (
        c.width * (c.heads + 2 * c.kv_heads) * c.head_width + c.heads * c.head_width * c.width
    )
    matrices = c.layers * (attention + 3 * c.width * c.mlp_width)
    mixing = 2 * c.layers * c.heads * c.head_width  # query · key, and its share of the value
    return 2 * (matrices * tokens + mixing * pairs + c.width * c.vocab_size * predictions)


def rollout_flops(config: GPTConfig, shape: Shape) -> int:
    """Return the operations that sampling needs: each prompt once, the last token not at all."""
    before, after = shape.prompt_tokens, shape.new_tokens - 1
    return forward_flops(
        config,
        tokens=shape.prompts * before + shape.batch * after,
        pairs=shape.prompts * before * (before + 1) // 2
        + shape.batch * (after * before + after * (after + 1) // 2),
        predictions=shape.prompts + shape.batch * after,
    )


def update_flops(config: GPTConfig, shape: Shape) -> int:
    """Return the operations that an update needs: three forward passes, each prompt once.

    The prompt's last token belongs to the completions, as it is where their first token is read.
    """
    before, after = shape.prompt_tokens - 1, shape.new_tokens
    return 3 * forward_flops(
        config,
        tokens=shape.prompts * before + shape.batch * after,
        pairs=shape.prompts * before * (before + 1) // 2
        + shape.batch * (after * before + after * (after + 1) // 2),
        predictions=shape.batch * after,
    )


def required(name: str) -> ModuleType:
    """Import what only this comparison needs.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is missing: the comparison needs it, `pip install trl transformers`"
        ) from error


def check_tokens(found: int, shape: Shape) -> None:
    """Refuse to compare unequal work."""
    if found != shape.tokens:
        raise RuntimeError(f"a step took {found} tokens, expected {shape.tokens}")


def seconds_of(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
