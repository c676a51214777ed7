"""Plausible mistakes in tokenizer.py, in the training of the merges."""

MUTANTS = {
    "train_bpe": {
        "a merge crosses the border of a piece": (
            "for piece in regex.findall(pattern, part)",
            "for piece in [part]",
        ),
        "a piece counts once, however often it occurs": (
            "counts[pair] += times\n            homes",
            "counts[pair] += 1\n            homes",
        ),
        "a special token is text like any other": (
            "special.split(_well_formed(text))[::2]",
            "[_well_formed(text)]",
        ),
        "new tokens are numbered from 257": (
            "256 + len(learned), set()",
            "257 + len(learned), set()",
        ),
        "of equally frequent pairs the larger is taken": (
            "count, best = heapq.heappop(heap)\n        if counts[best] != -count:\n"
            "            if counts[best]:\n"
            "                heapq.heappush(heap, (-counts[best], best))\n",
            "best = max(counts, key=lambda pair: (counts[pair], pair))\n"
            "        if not counts[best]:\n            heap.clear()\n",
        ),
        "pairs that a merge destroyed are still counted": (
            "counts[pair] -= times",
            "counts[pair] -= 0",
        ),
        "pairs that a merge made are not counted": (
            "counts[pair] += times\n                if",
            "counts[pair] += 0\n                if",
        ),
    },
    "_join": {
        "a token is joined twice: overlapping pairs": ("i += 2", "i += 1"),
        "only the first place in a word is joined": (
            "word[i] == pair[0] and",
            "new not in joined and word[i] == pair[0] and",
        ),
    },
}
