"""The loop and its presets: settings, replacing dead groups, the log, learning."""

import json

import pytest
import torch

from reasoning_from_scratch import grpo, rollouts
from reasoning_from_scratch.grpo import PRESETS, GRPOSettings, preset, train_grpo
from reasoning_from_scratch.problem_streams import ProblemStream
from reasoning_from_scratch.rollouts import collect, score
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sampling import sample
from tests.batches import REFUSED_REWARDS
from tests.tensors import refuses
from tests.toys import Copy, Parity, SayB, toy_model, toy_tokenizer, weights

SMALL = dict(steps=2, prompts=4, group_size=4, max_new_tokens=8, warmup=1, lr=1e-2)


def small(name, **changes):
    """A preset at the size of the toy model; its length penalty must fit the completions."""
    fitted = {"overlong": 3} if PRESETS[name].get("overlong") else {}
    return preset(name, **SMALL | fitted | changes)


def train(task, settings, *, model=None, **options):
    model = model or toy_model(scale=8.0)
    return model, train_grpo(model, toy_tokenizer(), task, settings, **options)


class Low(Copy):
    """Right when the first token is below 8: of an untrained model's completions nearly half."""

    def score(self, problem, completion):
        return float(completion[:1] < "8")


# The presets. A row of the table in a survey of the papers: what the reward is compared with and
# divided by, the ratio and its clip below and above, how tokens are averaged, the weight of the KL.

PUBLISHED = {
    "reinforce": ("none", "none", "token", "none", None, None, "constant", 0.0),
    "rloo": ("leave_one_out", "none", "token", "none", None, None, "constant", 0.0),
    "grpo": ("mean", "group_std", "token", "ppo", 0.2, 0.2, "sequence_mean", 0.04),
    "dr_grpo": ("mean", "none", "token", "ppo", 0.2, 0.2, "constant", 0.0),
    "dapo": ("mean", "group_std", "token", "ppo", 0.2, 0.28, "token_mean", 0.0),
    # Its weight of the KL is not published.
    "reinforce_pp": ("mean", "batch_std", "token", "ppo", 0.2, 0.2, "token_mean", None),
    "gspo": ("mean", "group_std", "sequence", "ppo", 3e-4, 4e-4, "sequence_mean", 0.0),
    # No bound below (a ratio is never under 0); the one above is not published.
    "cispo": ("mean", "group_std", "token", "cispo", 1.0, None, "token_mean", 0.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_settings(name):
    s, published = preset(name), PUBLISHED[name]
    found = (
        s.baseline, s.scale, s.ratio, s.clip, s.clip_low, s.clip_high, s.aggregate, s.kl_coef,
    )  # fmt: skip
    for value, wanted in zip(found, published, strict=True):
        assert wanted is None or value == wanted
    # Only DAPO, and CISPO after it, replace dead groups and punish what is overlong.
    assert (s.resample > 0) == (s.overlong > 0) == (name in ("dapo", "cispo"))
    assert s.kl == ("k2" if name == "reinforce_pp" else "k3") and s.temperature == 1.0


def test_there_are_no_other_presets_and_settings_can_be_changed():
    assert set(PRESETS) == set(PUBLISHED)
    assert preset("dapo", clip_high=0.3, steps=7).clip_high == 0.3
    assert GRPOSettings() == preset("grpo", kl_coef=0.0)
    refuses(preset, "ppo", match="preset is 'ppo', expected one of reinforce, rloo, grpo, dr_grpo")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(steps=0), "steps is 0, expected at least 1"),
        (dict(prompts=0), "prompts is 0, expected at least 1"),
        (dict(updates=0), "updates is 0, expected at least 1"),
        (dict(epochs=0), "epochs is 0, expected at least 1"),
        (dict(pool=15), "pool is 15, expected 0 or at least prompts=16"),
        (dict(length_coef=-1.0), "length_coef is -1.0, expected at least 0"),
        (dict(length_coef="0.1"), "length_coef is '0.1', expected a number"),
        (dict(length_reward="lcpo_max"), "length_coef is 0.5, but lcpo_max takes so much off"),
        (dict(updates=5, prompts=4), "updates is 5, expected at most prompts=4"),
        (dict(checkpoint_every=0), "checkpoint_every is 0, expected at least 1"),
        (dict(temperature=0.0), "temperature is 0.0: training samples, use above 0"),
        (dict(group_size=1), "group_size is 1, but baseline='mean' compares a completion with its"),
        (dict(group_size=1, baseline="leave_one_out"), "group_size is 1"),
        (dict(clip_low=-1.0), "clip_low is -1.0, expected at least 0"),
        (dict(clip_high=-0.2), "clip_high is -0.2, expected at least 0"),
        (dict(stop="ab"), "stop is 'ab', expected a list of non-empty strings"),
        (dict(steps=2.0), "steps is 2.0, expected a whole number"),
        (dict(warmup="10"), "warmup is '10', expected a whole number"),
        (dict(overlong=64), "overlong is 64, expected less than max_new_tokens=64"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    refuses(GRPOSettings, **changes, match=message)


@pytest.mark.parametrize(
    "choice", ["baseline", "scale", "ratio", "clip", "aggregate", "kl", "length_reward"]
)
def test_an_unknown_choice_is_refused_before_anything_is_sampled(choice):
    refuses(GRPOSettings, **{choice: "other"}, match=f"{choice} is 'other', expected '")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(prompts=5), "prompts is 5"),  # two processes cannot share them equally
        (dict(prompts=1), "prompts is 1"),
        (dict(prompts=4, updates=3), "updates is 3"),  # each process has two groups
    ],
)
def test_what_two_processes_cannot_share_is_refused(changes, message, monkeypatch):
    for module in (grpo, rollouts):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    settings = small("dr_grpo", **changes)
    refuses(train_grpo, toy_model(), toy_tokenizer(), Low(), settings, match=message)


# The loop.


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name):
    before = weights(toy_model(scale=8.0))
    changes = {"group_size": 1} if name == "reinforce" else {}
    model, run = train(Parity(), small(name, **changes))
    assert (weights(model) - before).abs().max() > 1e-3 and weights(model).isfinite().all()
    for line in run.history:
        assert {"reward", "length", "finished", "entropy", "loss", "grad_norm", "lr"} <= set(line)
        assert line["grad_norm"] > 0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_on_the_first_update_the_ratio_is_one(name, temperature):
    # Unless sampler and trainer speak of the same distribution, it is not.
    _, run = train(Parity(), small(name, temperature=temperature, steps=1))
    first = run.history[0]
    assert first["ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert first["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert first["clip_low_fraction"] == first["clip_high_fraction"] == 0
    if "kl" in first:
        assert first["kl"] == pytest.approx(0, abs=1e-6)


def test_later_updates_on_a_rollout_are_off_policy():
    settings = small("dr_grpo", updates=4, group_size=16, lr=3e-2)
    _, run = train(Low(), settings, model=toy_model())
    assert run.history[1]["approx_kl"] > 1e-4
    assert run.history[1]["clip_high_fraction"] + run.history[1]["clip_low_fraction"] > 0


def test_an_update_whose_groups_all_agree_does_not_stop_the_run():
    class OneLives(Copy):
        def score(self, problem, completion):
            return float(problem.prompt == "0=" and completion[:1] < "8")

    # Four groups, one of them mixed, each an update of its own: three have nothing to learn from.
    for seed in range(4):  # the order of the updates differs
        settings = small("dr_grpo", updates=4, steps=1, group_size=16, seed=10 * seed)
        _, run = train(OneLives(), settings, model=toy_model())
        assert run.history[0]["mixed_groups"] == 0.25
        assert run.history[0]["grad_norm"] > 0


def test_as_many_updates_as_asked_for_are_made(monkeypatch):
    made, step = [], grpo.optimiser_step
    monkeypatch.setattr(grpo, "optimiser_step", lambda *a, **k: made.append(1) or step(*a, **k))
    train(Parity(), small("dr_grpo", prompts=5, updates=4, epochs=3, steps=1))
    assert len(made) == 12


def test_a_second_pass_sees_every_group_again_and_has_moved_on():
    settings = small("dr_grpo", group_size=16, steps=1, lr=3e-2, warmup=0)
    once, twice = (
        train(Low(), small("dr_grpo", **vars(settings) | {"epochs": epochs}), model=toy_model())
        for epochs in (1, 2)
    )
    assert once[1].history[0]["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert twice[1].history[0]["approx_kl"] > 1e-4  # the mean of 0 and of what has changed since
    assert (weights(once[0]) - weights(twice[0])).abs().max() > 1e-3


def test_the_rate_of_each_step_and_the_evaluations_are_logged():
    settings = small("dr_grpo", steps=4, warmup=2, lr=0.01, final_lr=0.0, evaluate_every=2)
    seen = []
    model, run = train(Parity(), settings, evaluate=lambda m: {"n": len(seen.append(m) or seen)})
    # Warm-up 1/2 and 2/2, then a straight line from 1 to 0 over two steps.
    assert [line["lr"] for line in run.history] == pytest.approx([0.005, 0.01, 0.01, 0.005])
    assert [line.get("eval") for line in run.history] == [None, {"n": 1}, None, {"n": 2}]
    assert seen == [model, model]


def test_a_reward_of_several_parts_is_their_sum():
    def reward(owners, rollout):
        assert len(owners) == len(rollout.texts) == 16
        return {"correct": [1.0, 0.0] * 8, "brief": [-float(n) for n in rollout.lengths]}

    _, run = train(Parity(), small("dr_grpo", steps=1), reward=reward)
    line = run.history[0]
    assert line["reward_correct"] == 0.5
    assert line["reward_brief"] == pytest.approx(-line["length"])
    assert line["reward"] == pytest.approx(0.5 - line["length"])


def test_completions_are_kept_for_reading(tmp_path):
    run, tokenizer = Run.create(tmp_path / "run", {}), toy_tokenizer()
    settings = small("dapo", steps=3, prompts=6, record_every=2)
    train(Parity(), settings, run=run)
    lines = [json.loads(line) for line in (run.folder / "rollouts.jsonl").open()]
    assert [line["step"] for line in lines] == [0] * 4 + [2] * 4  # the first few groups
    for line in lines:
        assert line["prompt"] == line["answer"] + "=" and len(line["completions"]) == 4
        assert sum(c["advantage"] for c in line["completions"]) == pytest.approx(0, abs=1e-3)
        for c in line["completions"]:
            assert c["length"] == len(c["tokens"]) == len(c["logprobs"])
            text = "".join(c["tokens"])
            assert text == c["text"] + tokenizer.eos * c["finished"]
            assert c["parts"]["correct"] == Parity().score(None, c["text"])
            assert c["reward"] == pytest.approx(sum(c["parts"].values()))
            assert all(x <= 0 for x in c["logprobs"])


# Dynamic sampling and the length penalty.


class Seldom(Copy):
    """Only what is asked about digits below 3 is sometimes right: of ten groups three are mixed."""

    def score(self, problem, completion):
        return float(int(problem.answer) < 3 and len(completion) % 2)


def collected(settings, task=None, scale=8.0, seed=0):
    task, model, tokenizer = task or Seldom(), toy_model(scale=scale), toy_tokenizer()
    stream, generator = ProblemStream(task, seed), torch.Generator().manual_seed(seed)
    scored = []

    def reward(owners, rollout):
        scored.append(score(task, owners, rollout))
        return {"correct": scored[-1]}

    batch, stats = collect(model, tokenizer, stream, reward, settings, generator)
    return batch, stats, scored, stream.position


def is_mixed(batch, group_size=8):
    rows = batch.parts["correct"].view(-1, group_size)
    return (rows.amax(1) > rows.amin(1)).tolist()


def test_dead_groups_give_their_place_to_mixed_ones():
    settings = small("dapo", resample=20, group_size=8, prompts=6)
    batch, stats, scored, position = collected(settings)
    assert is_mixed(batch) == [True] * 6 and len(scored) > 1
    assert [p.answer < "3" for p in batch.problems] == [True] * 48
    # The log speaks of everything that was sampled, not of the chosen.
    everything = [x for part in scored for x in part]
    assert position == len(everything) / 8
    assert stats["reward_correct"] == pytest.approx(sum(everything) / len(everything))
    assert batch.parts["correct"].mean() > stats["reward_correct"]
    assert stats["mixed_groups"] < 1


def test_each_row_of_a_filled_batch_keeps_what_belongs_to_it():
    batch, _, _, _ = collected(small("dapo", resample=20, group_size=8, prompts=6))
    tokenizer, r = toy_tokenizer(), batch.rollout
    for row, problem in enumerate(batch.problems):
        start, at = int(r.prompt_lengths[row]), r.mask[row].bool()
        assert tokenizer.decode(r.tokens[row, :start].tolist()) == problem.prompt
        sampled = tokenizer.decode(r.tokens[row][at].tolist())
        assert sampled == r.texts[row] + tokenizer.eos * bool(r.finished[row])
        assert batch.parts["correct"][row] == Seldom().score(problem, r.texts[row])
        assert batch.problems[row - row % 8] is problem  # groups stayed together
    assert (r.logprobs[r.mask == 0] == 0).all() and (r.logprobs[r.mask == 1] < 0).all()
    torch.testing.assert_close(batch.rewards, sum(batch.parts.values()))


def test_where_too_few_are_mixed_the_rest_is_filled_up():
    batch, _, scored, _ = collected(small("dapo", resample=1, group_size=8, prompts=6))
    assert len(scored) == 2 and len(batch.rewards) == 48
    mixed = is_mixed(batch)
    assert mixed == sorted(mixed, reverse=True) and 0 < sum(mixed) < 6


def test_without_resampling_one_rollout_is_taken_as_it_is():
    batch, _, scored, position = collected(small("dr_grpo", group_size=8, prompts=6))
    assert len(scored) == 1 and position == 6 and scored[0] == batch.rewards.tolist()
    assert not all(is_mixed(batch))


def test_nothing_is_sampled_again_when_all_groups_are_mixed():
    settings = small("dapo", resample=20, group_size=16)
    _, _, scored, _ = collected(settings, Low(), scale=1.0)
    assert len(scored) == 1


def test_what_is_overlong_is_punished_but_does_not_make_a_group_mixed():
    class Never(Copy):
        def score(self, problem, completion):
            return 0.0

    settings = small("dapo", resample=2, group_size=8)
    batch, _, scored, _ = collected(settings, Never())
    assert len(scored) == 3  # it looked for mixed groups in vain, whatever the lengths
    # Of at most 8 tokens the last 3 are punished: 5 cost nothing, 6 a third, 7 two, 8 all.
    expected = [-max(0, n - 5) / 3 for n in batch.rollout.lengths.tolist()]
    assert batch.parts["overlong"].tolist() == pytest.approx(expected)
    assert len(set(expected)) > 2 and batch.rewards.tolist() == pytest.approx(expected)


def test_what_was_cut_off_teaches_nothing_if_so_asked():
    class Cut(Copy):  # right where the end was not reached: with every advantage on that side
        def score(self, problem, completion):
            return float(len(completion) >= 8)

    start, moved = weights(toy_model(scale=8.0)), []
    for masked in (False, True):
        settings = small("dr_grpo", group_size=8, steps=1, mask_unfinished=masked)
        model, run = train(Cut(), settings)
        moved.append((weights(model) - start).abs().max().item())
        assert 0 < run.history[0]["finished"] < 1 and run.history[0]["grad_norm"] > 0
    assert moved[0] != moved[1]


def test_length_counts_from_the_step_it_is_to_count_from():
    settings = small("dr_grpo", steps=3, length_reward="kimi", length_after=2)
    _, run = train(Parity(), settings)
    assert ["reward_length" in line for line in run.history] == [False, False, True]
    line = run.history[2]
    assert line["reward"] == pytest.approx(line["reward_correct"] + line["reward_length"])
    message = "length_reward is 'lcpo_exact', but the problems ask for no length"
    with pytest.raises(ValueError, match=message):  # at once, not when length begins to count
        asks = {"length_reward": "lcpo_exact", "length_coef": 0.01, "length_after": 2}
        train(Parity(), small("dr_grpo", **asks))


# The KL term.


def test_a_kl_term_holds_the_policy_near_its_start():
    start, tokens, shifts = toy_model(scale=8.0), torch.tensor([[0, 10], [5, 10]]), []
    for kl_coef in (10.0, 0.0):
        model, run = train(SayB(), small("grpo", steps=6, kl_coef=kl_coef))
        shifts.append((model(tokens) - start(tokens)).abs().mean().item())
        assert ("kl" in run.history[-1]) == (kl_coef > 0)
        if kl_coef:
            assert run.history[-1]["kl"] > 0  # it has moved, and that was measured
    assert shifts[0] < 0.75 * shifts[1]


# It learns.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo", "dapo"])
def test_it_learns_to_say_the_token_that_is_rewarded(name, seed):
    settings = preset(
        name, steps=25, prompts=8, group_size=8, max_new_tokens=1, overlong=0, resample=0, lr=2e-2,
        warmup=2, seed=seed,
    )  # fmt: skip
    model, run = train(SayB(), settings, model=toy_model(seed))
    assert run.history[0]["reward"] < 0.25  # of 18 tokens one
    rollout = sample(
        model, toy_tokenizer(), [f"{d}=" for d in range(10)], max_new_tokens=1, group_size=20,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert sum(text == "b" for text in rollout.texts) > 180  # of 200


def test_an_evaluation_that_would_never_be_called_is_refused():
    with pytest.raises(ValueError, match="evaluate is given, but evaluate_every is 0"):
        train(Low(), GRPOSettings(steps=1), evaluate=lambda policy: {})


@pytest.mark.parametrize("returned, message", REFUSED_REWARDS)
def test_what_no_reward_function_returns_is_refused(returned, message):
    settings = GRPOSettings(steps=1, prompts=2, group_size=2, max_new_tokens=2)
    with pytest.raises(ValueError, match=message):
        train(Low(), settings, reward=lambda owners, rollout: returned)
