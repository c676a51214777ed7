"""Figures, tables and the page of completions: numbers by hand, hostile text, a real browser."""

import base64
import hashlib
import html
import json
import math
import re
import shutil
import subprocess

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch import report, report_page

HOSTILE = (
    "</script><script>document.documentElement.dataset.hacked=1</script><!-- ]]> &lt;"
    "<img src=x onerror=document.documentElement.dataset.hacked=1>"
    "\x00\x1b\u2028\u202e\ud800 \n end"
)


def metric(mean, low, high, n=100):
    return {"mean": mean, "low": low, "high": high, "n": n}


BEFORE = {"greedy": metric(0.252, 0.2105, 0.295), "length": metric(4.84, 4.7, 5.0)}
BEFORE |= {"by_steps": {"2": metric(0.44, 0.34, 0.54)}, "longer": metric(0.04, 0.01, 0.08, 50)}
AFTER = {"greedy": metric(0.912, 0.884, 0.94), "length": metric(32.14, 31.3, 32.9)}
AFTER |= {"by_steps": {"2": metric(0.99, 0.97, 1.0)}, "longer": metric(0.29, 0.20, 0.38, 50)}


def write_lines(path, lines, tail=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def completion(text, reward, advantage, **changes):
    tokens = [*re.findall(r"<[^<>]*>|\d|.", text, re.DOTALL), "<|end|>"]
    entry = {"text": text, "tokens": tokens, "logprobs": [-0.25 * i for i in range(len(tokens))]}
    entry |= {"mask": [1] * len(tokens), "reward": reward, "parts": {"correct": reward}}
    entry |= {"advantage": advantage, "length": len(tokens), "finished": True}
    return entry | changes


def group(step, prompt, text="<answer>7</answer>"):
    wrong = completion("<answer>8</answer>", 0.0, -1.5, finished=False)
    return {"step": step, "prompt": prompt, "answer": "7"} | {
        "completions": [completion(text, 1.0, 1.5), wrong]
    }


@pytest.fixture
def job(tmp_path):
    """A main job's folder as a killed run leaves it, with hostile text in every place."""
    folder = tmp_path / "job"
    steps = range(3)
    write_lines(folder / "pretrain/log.jsonl", [{"step": s, "loss": 3.0 - s} for s in steps])
    log = [{"step": s, "reward": 0.25 * s, "length": 5.0 + s, "thinks": 0.5} for s in steps]
    log[1]["reward"] = math.nan
    log[2]["eval"] = {"greedy": metric(0.5, 0.4, 0.6)}
    write_lines(folder / "grpo/log.jsonl", log, tail='{"step": 3, "rew')
    (folder / "grpo/settings.json").write_text(json.dumps({"steps": 3, "stop": [HOSTILE]}))
    groups = [group(s, f"prompt {p} of step {s}") for s in steps for p in range(2)]
    groups[0] = group(0, HOSTILE, HOSTILE)
    groups[0]["completions"][1]["mask"][0] = 0
    write_lines(folder / "grpo/rollouts.jsonl", groups, tail='{"step": 3, "pro')
    (folder / "before.json").write_text(json.dumps(BEFORE))
    (folder / "after.json").write_text(json.dumps(AFTER))
    side = {"text": "<answer>1</answer>", "length": 3}
    pairs = [(False, True)] * 3 + [(True, False)]
    lines = [
        {"prompt": f"problem {i}", "answer": "7"}
        | {"before": {**side, "correct": old}, "after": {**side, "correct": new}}
        for i, (old, new) in enumerate(pairs)
    ]
    lines[0]["before"]["text"] = HOSTILE
    write_lines(folder / "comparison.jsonl", lines)
    return folder


def seeds(*curves, key="reward"):
    """Logs with these values at steps 0, 1, 2, …"""
    return [[{"step": s, key: value} for s, value in enumerate(curve)] for curve in curves]


# ---- figures


def test_the_band_is_the_t_interval_over_seeds():
    # Rewards 1, 2, 3: mean 2, deviation 1; t of 2 degrees at 97.5 % is 4.3027.
    # 4.3027 · 1 / sqrt(3) = 2.4841, so the band runs from -0.4841 to 4.4841.
    runs = {"GRPO": seeds([1.0, 5.0], [2.0, 5.0], [3.0, 5.0])}
    axes = report.learning_curves(runs, title="t").axes[0]
    (band,) = axes.collections
    at_0 = sorted({round(y, 4) for x, y in band.get_paths()[0].vertices if x == 0})
    assert at_0 == pytest.approx([-0.4841, 4.4841], abs=1e-4)
    mean = axes.lines[-1]
    assert list(mean.get_ydata()) == [2.0, 5.0]
    assert mean.get_color() == report.METHOD_COLOURS["grpo"]


def test_two_seeds_have_no_band_but_are_drawn_one_by_one():
    axes = report.learning_curves({"a": seeds([1.0, 2.0], [3.0, 4.0])}, title="t").axes[0]
    assert not axes.collections
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 2], [3, 4], [2, 3]]


def test_the_mean_stops_where_the_first_seed_stopped():
    axes = report.learning_curves({"a": seeds([1.0, 2.0, 9.0], [3.0, 4.0])}, title="t").axes[0]
    assert list(axes.lines[-1].get_xdata()) == [0, 1]


def test_a_value_that_is_not_finite_is_a_gap_not_a_smaller_sample():
    runs = {"a": seeds([1.0, math.nan, 3.0], [3.0, 4.0, 5.0])}
    mean = report.learning_curves(runs, title="t").axes[0].lines[-1]
    assert list(zip(mean.get_xdata(), mean.get_ydata(), strict=True)) == [(0, 2), (2, 4)]


def test_smoothing_is_over_steps_and_stated():
    log = seeds([0.0, 3.0, 6.0, 0.0])[0]
    log[0]["eval"], log[3]["eval"] = {"greedy": metric(0.1, 0, 0.2)}, {"greedy": metric(0.9, 0, 1)}
    keys = ["reward", "eval.greedy", "reward", "reward"]  # the second row has free places
    figure = report.learning_curves({"a": [log]}, title="t", keys=keys, smooth=3)
    assert list(figure.axes[0].lines[0].get_ydata()) == [1.5, 3, 3, 3]  # fewer at the ends
    assert list(figure.axes[1].lines[0].get_ydata()) == [10, 90]  # three steps apart: as they are
    note = figure.axes[4].get_legend().get_title().get_text()
    assert "running mean over 3 steps" in note and "band" not in note


@pytest.mark.parametrize("names", [
    ["true reward", *(f"control, seed {i}" for i in range(5)), "mirror base"],
    ["GRPO", "RLOO", "PPO", "DAPO"],
    ["one arm, which has a name that needs a whole line and is not cut off either"],
])  # fmt: skip
def test_the_legend_stays_within_the_figure(names):
    figure = report.learning_curves({name: seeds([1.0, 2.0]) for name in names}, title="t",
                                    keys=["reward"] * 3)  # fmt: skip
    figure.canvas.draw()
    (legend,) = figure.legends
    assert figure.bbox.containsx(legend.get_window_extent().xmax)


def test_the_svg_is_searchable_and_the_same_twice(tmp_path, job):
    runs = {"GRPO": [job / "grpo"] * 3}
    for name in ("a.svg", "b.svg"):
        report.learning_curves(runs, tmp_path / name, title="It learns to think")
    first, second = (tmp_path / name for name in ("a.svg", "b.svg"))
    text = html.unescape(first.read_text())
    for words in ("It learns to think", "length (tokens)", "thinks aloud (%)", "step", "(n = 3)",
                  "greedy accuracy (%)", "band: 95 % t interval over seeds"):  # fmt: skip
        assert re.search(rf"<text [^>]*>[^<]*{re.escape(words)}", text), words
    assert first.read_bytes() == second.read_bytes()
    assert 'width="460.8pt"' in text  # 6.4 inches of 72 points


def test_figures_leave_the_global_style_alone(tmp_path):
    with matplotlib.rc_context({"font.size": 13, "svg.fonttype": "path", "figure.figsize": (9, 9)}):
        before = dict(matplotlib.rcParams)
        report.learning_curves({"a": seeds([1.0, 2.0])}, tmp_path / "a.svg", title="t")
        with report.figure_style():
            assert matplotlib.rcParams["svg.fonttype"] == "none"
            assert matplotlib.rcParams["figure.figsize"][0] == 6.4
        assert dict(matplotlib.rcParams) == before


def test_no_two_methods_look_alike():
    assert len(set(report.METHOD_STYLES.values())) == len(report.METHOD_STYLES)
    main = ("reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo")
    assert len({report.METHOD_COLOURS[name] for name in main}) == len(main)
    looks = report.line_styles(["Dr. GRPO", "grpo", "dr-grpo", *"abcdefghij"])
    assert looks["Dr. GRPO"] == looks["dr-grpo"]
    assert len({str(look) for look in looks.values()}) == len(looks) - 1


def test_learning_curves_refuses_what_it_cannot_draw(job):
    with pytest.raises(ValueError, match="no run logged entropy: choose other keys"):
        report.learning_curves({"a": seeds([1.0])}, title="t", keys=["reward", "entropy"])
    with pytest.raises(ValueError, match=r"runs\['a'\] is .* expected a list of folders or logs"):
        report.learning_curves({"a": seeds([1.0])[0]}, title="t")
    with pytest.raises(FileNotFoundError, match="try .*grpo, .*pretrain"):
        report.learning_curves({"a": [job]}, title="t")


def test_before_after_figure_sets_apart_what_was_never_trained_on(tmp_path):
    path = tmp_path / "new" / "figure.svg"
    figure = report.before_after_figure(BEFORE, AFTER, path, title="It carries over")
    text = path.read_text()
    for words in ("longer than any in training", "accuracy (%)", "before RL", "44", "99", "29"):
        assert words in text
    marked = [line for line in figure.axes[0].lines if line.get_marker() not in ("", "None")]
    points = {
        (x, round(y)): line.get_marker() for line in marked for x, y in line.get_xydata().tolist()
    }
    # One trained length at 0; the longer ones at 1 and a gap.
    assert points == {(0, 44): "o", (0, 99): "s", (1.35, 4): "D", (1.35, 29): "D"}
    bars = [list(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert pytest.approx([34, 54]) in bars and pytest.approx([20, 38]) in bars
    with pytest.raises(ValueError, match=r"metrics has \['greedy'\], expected 'by_steps'"):
        report.before_after_figure({"greedy": 1}, AFTER, title="t")


# ---- numbers and records


def test_the_table_is_aligned_and_carries_units_intervals_and_n():
    lines = report.before_after_table(BEFORE, AFTER | {"pass@8": metric(0.5, 0.4, 0.6)}).split("\n")
    assert [re.split(r"  +", line.strip()) for line in lines] == [
        ["before", "95 % interval", "after", "95 % interval", "n"],
        ["greedy accuracy (%)", "25.2", "[21.1, 29.5]", "91.2", "[88.4, 94.0]", "100"],
        ["length (tokens)", "4.8", "[4.7, 5.0]", "32.1", "[31.3, 32.9]", "100"],
        ["accuracy, 2 steps (%)", "44.0", "[34.0, 54.0]", "99.0", "[97.0, 100.0]", "100"],
        ["accuracy, longer than in training (%)", "4.0", "[1.0, 8.0]", "29.0", "[20.0, 38.0]",
         "50"],
        ["pass@8 (%)", "50.0", "[40.0, 60.0]", "100"],
    ]  # fmt: skip
    assert len({len(line) for line in lines[1:-2]}) == 1


def test_a_line_that_was_cut_short_is_skipped_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = '{"step": 0, "note": "\u2028\u00e9"}\n'.encode()  # U+2028 ends no line
    path.write_bytes(whole + '{"step": 1, "note": "é'.encode()[:-1])  # cut inside a character
    assert report.read_log(tmp_path) == [{"step": 0, "note": "\u2028\u00e9"}]
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2 is not JSON"):
        report.read_log(tmp_path)


def test_settings_are_read_and_may_be_missing(job):
    assert report.read_settings(job / "grpo")["steps"] == 3
    assert report.read_settings(job) == {}


# ---- the page


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_stays_data_inside_a_script_element(text):
    embedded = report_page._embed({"text": text + HOSTILE})
    assert json.loads(embedded) == {"text": text + HOSTILE}
    assert embedded.isascii() and embedded.isprintable() and not set("<>&") & set(embedded)


def test_the_page_holds_every_completion(job):
    path = report.write_page(job)
    assert path == job / "report.html"
    page = path.read_text()
    assert page.lower().count("<script") == 2  # the data and the page's own
    data = data_of(page)
    assert [stage["name"] for stage in data["stages"]] == ["pretrain", "grpo"]
    groups, vocabulary = data["stages"][1]["groups"], data["vocabulary"]
    assert [g["step"] for g in groups] == [0, 0, 1, 1, 2, 2]
    first, second = groups[0]["completions"]
    assert "".join(vocabulary[token] for token in first["tokens"]) == HOSTILE + "<|end|>"
    assert first["ending"] == "<|end|>" and "text" not in first
    assert first["surprise"][:4] == [0, 25, 50, 75]  # hundredths of a nat
    assert second["mask"][:2] == [0, 1] and second["advantage"] == -1.5
    assert len(vocabulary) == len(set(vocabulary))
    curves = {curve["key"]: curve["points"] for curve in data["stages"][1]["curves"]}
    assert curves["reward"] == [[0, 0, None, None], [2, 0.5, None, None]]  # NaN left out
    assert curves["eval.greedy"] == [[2, 50, 40, 60]] and "step" not in curves
    assert len(data["comparison"]) == 4 and len(data["metrics"]) == 4


def test_the_page_loads_nothing_and_runs_only_its_own_script(job):
    page = report.write_page(job, job / "elsewhere" / "page.html").read_text()
    assert not re.search(r"""(src|href)\s*=|@import|url\(|fetch\(|innerHTML|document\.write""",
                         page.replace("src=x", ""))  # fmt: skip
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_one_stage_alone_has_a_page_and_an_empty_folder_has_none(job, tmp_path):
    data = data_of(report.write_page(job / "grpo").read_text())
    assert [stage["name"] for stage in data["stages"]] == ["grpo"]
    assert data["metrics"] == [] and data["comparison"] == []
    with pytest.raises(FileNotFoundError, match="no run in"):
        report.write_page(tmp_path)


def test_a_long_run_is_averaged_and_a_large_one_thinned(tmp_path, monkeypatch):
    write_lines(tmp_path / "log.jsonl", [{"step": s, "reward": float(s)} for s in range(1200)])
    write_lines(tmp_path / "rollouts.jsonl", [group(s, "p") for s in range(11)])
    monkeypatch.setattr(report_page, "MAX_TOKENS", 50)  # a group has 8: room for six of eleven
    (stage,) = data_of(report.write_page(tmp_path).read_text())["stages"]
    points = stage["curves"][0]["points"]
    assert len(points) == 400 and points[0] == [2, 1, None, None]  # steps 0, 1, 2
    assert [g["step"] for g in stage["groups"]] == [0, 2, 4, 6, 8, 10]
    assert stage["left_out"] == 5 and stage["every"] == 3


def test_two_hundred_recorded_steps_stay_under_two_megabytes(tmp_path):
    text = "0123456789" * 4 + "abcdefg"  # 48 tokens with the end
    eight = {"completions": [completion(text, 1.0, 0.0)] * 8}
    lines = [{"step": s, "prompt": "p", "answer": "7"} | eight for s in range(200) for _ in "12"]
    write_lines(tmp_path / "rollouts.jsonl", lines)
    path = report.write_page(tmp_path)
    assert len(data_of(path.read_text())["stages"][0]["groups"]) == 400
    assert path.stat().st_size < 2e6


# ---- the page in a real browser


def in_browser(page, tmp_path, link=""):
    """Return the page as Chromium leaves it, without its scripts."""
    command = [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
               "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=2000", "--dump-dom", page.as_uri() + link]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    dom = re.sub(r"<script.*?</script>", "", done.stdout.decode(), flags=re.DOTALL)
    head = dom[: dom.index("<head>")]
    assert 'data-ready="1"' in head and "data-error" not in head and "hacked" not in head, head
    return dom


def texts(dom, pattern):
    """The text inside each match of `pattern`'s group, tags removed."""
    return [html.unescape(re.sub(r"<[^>]*>", "", found))
            for found in re.findall(pattern, dom, re.DOTALL)]  # fmt: skip


browser = pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")

# What HOSTILE looks like to a reader: every invisible character by its name.
SEEN = HOSTILE[: HOSTILE.index("\x00")] + "⟨U+0000⟩⟨U+001B⟩⟨U+2028⟩⟨U+202E⟩⟨U+D800⟩ ↵\n end"


@browser
@pytest.mark.parametrize("tokens, ending", [(0, ""), (1, "<|end|>")])
def test_a_browser_shows_hostile_text_as_text(job, tmp_path, tokens, ending):
    dom = in_browser(report.write_page(job), tmp_path, f"#step=0&tokens={tokens}")
    cards = re.findall(r"<article.*?</article>", dom, re.DOTALL)
    assert len(cards) == 2
    assert texts(cards[0], r"<pre[^>]*>(.*?)</pre>") == [SEEN + ending]
    assert texts(dom, r'<span class="text">(.*?)</span>')[0] == SEEN  # the prompt
    assert SEEN in texts(dom[dom.index('class="pair"') :], r"<pre[^>]*>(.*?)</pre>")


@browser
def test_a_browser_shows_the_numbers(job, tmp_path):
    dom = in_browser(report.write_page(job), tmp_path, "#step=0&tokens=1")
    right, wrong = re.findall(r"<article.*?</article>", dom, re.DOTALL)
    assert "▲ +1.50" in right and "finished" in right
    assert "▼ −1.50" in wrong and "cut off at 4 tokens" in wrong
    assert texts(wrong, r'<span class="token masked"[^>]*>(.*?)</span>') == ["<answer>"]
    assert "log-probability −0.25, p = 0.78" in wrong
    assert "greedy accuracy" in dom and "91.2" in dom and "88.4 to 94.0" in dom
    assert "wrong → right (3)" in dom and "right → wrong (1)" in dom


@browser
def test_keys_move_through_steps_and_prompts(job, tmp_path):
    page = report.write_page(job)
    # The policy would, rightly, refuse this test's own script.
    text = re.sub(r"<meta http-equiv.*?>", "", page.read_text(), flags=re.DOTALL)
    keys = ["ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight", "j", "n", "n", "t", ".", "f"]
    press = (
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    tail = "document.activeElement.setAttribute('id', 'focused')"
    script = f"<script>for (const key of {json.dumps(keys)}) {press}; {tail};</script>"
    page.write_text(text.replace("</body>", script + "</body>"))
    dom = in_browser(page, tmp_path)
    assert texts(dom, r"<output[^>]*>(.*?)</output>") == ["step 1 (2 of 3)"]
    current = texts(dom, r'<button aria-current="true"[^>]*>(.*?)</button>')
    assert len(current) == 1 and current[0].startswith("prompt 1 of step 1")
    assert '<button aria-pressed="true">wrong → right (3)</button>' in dom
    # The second completion was in focus, kept it when colours came on; "." went to its first token.
    second = re.findall(r"<article.*?</article>", dom, re.DOTALL)[1]
    assert texts(second, r'<span [^>]*id="focused"[^>]*>(.*?)</span>') == ["<answer>"]


@browser
def test_what_is_missing_is_said_in_one_line(tmp_path):
    write_lines(tmp_path / "run" / "log.jsonl", [{"step": 0, "loss": 2.0}])
    dom = in_browser(report.write_page(tmp_path / "run"), tmp_path)
    for name in ("before.json", "rollouts.jsonl", "comparison.jsonl", "settings.json"):
        assert len(re.findall(rf'<p class="soft">[^<]*{name}[^<]*</p>', dom)) == 1, name
    assert "2.00 at 0" in dom and "<article" not in dom
