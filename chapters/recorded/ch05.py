"""Recorded runs of chapter 05: what becomes of a policy that is paid by a reward model.

    python chapters/recorded/ch05.py [--seeds 0 1 2]

Two runs at once, on one thread each; a run that data/recorded/ch05.json holds already, with the
same settings, is skipped. Arms: GRPO paid by a reward model of 256 pairs ("score"), by the verifier
("verifier"), by a reward model whose labels were coins ("shuffled"), and by the first reward model
with advantages that are not divided by the group's deviation ("unscaled"). The seed decides pairs,
samples and problems; the base is the same.
"""

import argparse
import copy
import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from reasoning_from_scratch import (
    GPT,
    GRPOSettings,
    Problem,
    RewardModelSettings,
    Rollout,
    ScalarHead,
    expected_best_of_n,
    flip_labels,
    get_task,
    load_pretrained,
    load_reward_model,
    normalise_scores,
    pair_accuracy,
    proxy_reward,
    sample,
    sample_preferences,
    save_reward_model,
    score,
    score_pairs,
    token_logprobs,
    train_grpo,
    train_reward_model,
)

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "data/recorded/ch05.json"
TASK = {"name": "stories", "steps": [2, 5]}
TOKENS = 72
ARMS = {  # changes of GRPO's settings
    "score": {},
    "verifier": {},
    "shuffled": {"steps": 40},
    "unscaled": {"scale": "none"},
}
GRPO = {
    "steps": 60, "prompts": 16, "group_size": 8, "max_new_tokens": TOKENS, "lr": 3e-4,
    "aggregate": "token_mean", "evaluate_every": 4,
}  # fmt: skip
SETTINGS = {
    "task": TASK, "base": "data/models/base", "pairs": 256, "held_out_pairs": 384,
    "reward_model": {"steps": 100}, "grpo": GRPO, "curve_problems": 256,
    "best_of_n": {"problems": 48, "samples": 256, "n": [1, 2, 4, 8, 16, 32, 64]},
}  # fmt: skip
REWARD_MODEL_FROM = ("task", "base", "pairs", "held_out_pairs", "reward_model")


def settings_of(arm: str) -> dict[str, object]:
    """Return the settings of one arm but for the seed; what is left out stands at its default."""
    settings = SETTINGS | {"arm": arm, "grpo": GRPO | ARMS[arm]}
    return json.loads(json.dumps(settings))  # as they come back from the file


class Lab:
    """What all arms of a seed share: the base, its reward model, and how a policy is looked at."""

    def __init__(self, seed: int, *, coins: bool) -> None:
        self.seed, self.task = seed, get_task(TASK["name"], steps=TASK["steps"])
        self.base, self.tokenizer = load_pretrained(ROOT / SETTINGS["base"])
        made_from = json.dumps([seed, coins, {k: SETTINGS[k] for k in REWARD_MODEL_FROM}])
        kept = ROOT / "runs/ch05" / hashlib.sha256(made_from.encode()).hexdigest()[:12]
        if not (kept / "quality.json").exists():
            self.make_reward_model(kept, coins=coins)
        self.reward_model, _ = load_reward_model(kept / "model")
        self.quality = json.loads((kept / "quality.json").read_text())

    def make_reward_model(self, kept: Path, *, coins: bool) -> None:
        """Train the seed's reward model, and keep it with its quality for the other arms."""
        pairs = self.pairs("pairs", "train")
        if coins:
            pairs = flip_labels(pairs, 0.5, seed=self.seed)
        model = ScalarHead(copy.deepcopy(self.base))
        settings = RewardModelSettings(**SETTINGS["reward_model"], seed=self.seed)
        train_reward_model(model, self.tokenizer, pairs, settings)
        quality = self.measure_quality(model)
        # From here on the proxy is told in deviations over the base's samples.
        prompts = [p.prompt for p in self.problems(256, "train") for _ in range(2)]
        texts = self.sample(self.base, prompts[::2], group_size=2).texts
        normalise_scores(model, self.tokenizer, prompts, texts)
        save_reward_model(model, self.tokenizer, kept / "model")
        (kept / "quality.json").write_text(json.dumps(quality))

    def problems(self, count: int, split: str) -> list[Problem]:
        return self.task.generate(count, seed=500 + self.seed, split=split)

    def pairs(self, name: str, split: str) -> list:
        count = SETTINGS[name]
        return sample_preferences(
            self.base, self.tokenizer, self.task, self.problems(6 * count, split), count=count,
            max_new_tokens=TOKENS, seed=self.seed,
        )  # fmt: skip

    def sample(self, policy: GPT, prompts: list[str], *, group_size: int = 1) -> Rollout:
        generator = torch.Generator().manual_seed(self.seed)
        return sample(
            policy, self.tokenizer, prompts, group_size=group_size, max_new_tokens=TOKENS,
            generator=generator,
        )  # fmt: skip

    def measure_quality(self, model: ScalarHead) -> dict[str, float]:
        """Return accuracy on held-out pairs, all and those of like form, and the tie to length."""
        held_out = self.pairs("held_out_pairs", "test")
        chosen, rejected = (x.numpy() for x in score_pairs(model, self.tokenizer, held_out))
        thinks = [("<think>" in p.chosen, "<think>" in p.rejected) for p in held_out]
        alike = np.array([first == second for first, second in thinks])
        lengths = np.array([p.meta["length"] for p in held_out], float)
        scores = np.stack([chosen, rejected], 1)
        return {
            "pair_accuracy": pair_accuracy(chosen, rejected),
            "pair_accuracy_same_form": pair_accuracy(chosen[alike], rejected[alike]),
            "same_form": float(alike.mean()),
            "length_correlation": float(np.corrcoef(scores.ravel(), lengths.ravel())[0, 1]),
        }

    @torch.no_grad()
    def look(self, policy: GPT) -> dict[str, object]:
        """Look at a policy: one completion at T = 1 of each problem, and three texts to read."""
        problems = self.problems(SETTINGS["curve_problems"], "test")
        rollout = self.sample(policy, [p.prompt for p in problems])
        targets, mask = rollout.tokens[:, 1:], rollout.mask[:, 1:]
        reference = token_logprobs(self.base(rollout.tokens[:, :-1]), targets)
        kl = ((rollout.logprobs[:, 1:] - reference) * mask).sum(1)
        proxy = score(
            self.reward_model, self.tokenizer, [p.prompt for p in problems], rollout.texts
        )
        pairs = zip(problems, rollout.texts, strict=True)
        found = {
            "accuracy": [self.task.score(p, t) for p, t in pairs],
            "proxy": proxy.tolist(), "length": rollout.lengths.tolist(), "kl": kl.tolist(),
            "thinks": ["<think>" in text for text in rollout.texts],
            "finished": rollout.finished.tolist(),
        }  # fmt: skip
        means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
        shown = zip(problems[:3], rollout.texts, proxy.tolist(), strict=False)
        texts = [[p.prompt.strip(), text, round(reward, 2)] for p, text, reward in shown]
        return means | {"texts": texts}

    @torch.no_grad()
    def best_of_n(self) -> dict[str, list[float]]:
        """Return proxy, truth and length of the best of n by the proxy, over sets of n."""
        s = SETTINGS["best_of_n"]
        rows = {"proxy": [], "accuracy": [], "length": []}
        for problem in self.problems(s["problems"], "test"):
            rollout = self.sample(self.base, [problem.prompt], group_size=s["samples"])
            prompts = [problem.prompt] * s["samples"]
            proxy = score(self.reward_model, self.tokenizer, prompts, rollout.texts).tolist()
            right = [self.task.score(problem, text) for text in rollout.texts]
            values = {"proxy": proxy, "accuracy": right, "length": rollout.lengths.tolist()}
            for name, of in values.items():
                rows[name].append([expected_best_of_n(proxy, of, n) for n in s["n"]])
        return {name: np.mean(of, 0).round(4).tolist() for name, of in rows.items()}


def run(seed: int, arm: str) -> dict[str, object]:
    """Run one arm at one seed."""
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    lab = Lab(seed, coins=arm == "shuffled")
    extra = {"best_of_n": lab.best_of_n()} if arm == "score" else {}
    policy = copy.deepcopy(lab.base)
    settings = GRPOSettings(**GRPO | ARMS[arm], seed=seed)
    reward = None if arm == "verifier" else proxy_reward(lab.reward_model, lab.tokenizer, lab.task)
    first = lab.look(policy)
    history = train_grpo(
        policy, lab.tokenizer, lab.task, settings, reward=reward, evaluate=lab.look
    ).history
    looks = [first, *(line["eval"] for line in history if "eval" in line)]
    texts = {"first": looks[0]["texts"], "last": looks[-1]["texts"]}
    curve = {name: [found[name] for found in looks] for name in first if name != "texts"}
    curve["step"] = [0, *(line["step"] + 1 for line in history if "eval" in line)]
    seconds = round(time.perf_counter() - start), round(time.process_time() - cpu)
    return {
        "seed": seed, "arm": arm, "settings": settings_of(arm), "quality": lab.quality,
        "curve": curve, "texts": texts, **extra,
        "seconds": seconds[0], "cpu_seconds": seconds[1],
    }  # fmt: skip


def recorded() -> list[dict]:
    """Return the runs of the file."""
    return json.loads(FILE.read_text())["runs"] if FILE.exists() else []


def main() -> None:
    """Run what is missing, and add each run to the file when it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    asked = parser.parse_args()
    runs = recorded()
    done = [(r["seed"], r["arm"]) for r in runs if r["settings"] == settings_of(r["arm"])]
    jobs = [(seed, arm) for arm in asked.arms for seed in asked.seeds if (seed, arm) not in done]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *job) for job in jobs]):
            new = future.result()
            runs = [r for r in runs if (r["seed"], r["arm"]) != (new["seed"], new["arm"])] + [new]
            runs.sort(key=lambda r: (list(ARMS).index(r["arm"]), r["seed"]))
            FILE.parent.mkdir(parents=True, exist_ok=True)
            content = {"command": "python chapters/recorded/ch05.py", "runs": runs}
            FILE.write_text(json.dumps(content) + "\n")
            last = {name: values[-1] for name, values in new["curve"].items()}
            print(new["seed"], new["arm"], f"{new['seconds']} s", last, flush=True)


if __name__ == "__main__":
    main()
