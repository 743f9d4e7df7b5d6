"""Caption corpora for the parity tests, pycocoevalcap's scores of them, and the script that stores both.

python -m tests.metrics.corpora      # rewrites tests/metrics/values/captions.json
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).parent / "values" / "captions.json"


def make_corpus(images: int, references: int, seed: int, vocab_size: int = 9) -> dict[str, Any]:
    """Captions of a small vocabulary, so that runs of four words do recur; every image has its own number of them."""
    rng = np.random.default_rng(seed)

    def caption(longest: int) -> list[str]:
        return [f"w{index}" for index in rng.integers(0, vocab_size, rng.integers(1, longest + 1))]

    truths = [[caption(11) for _ in range(rng.integers(1, references + 1))] for _ in range(images)]
    # half of the candidates share their first words with a reference
    heads = [truth[0][: rng.integers(0, 9)] if image % 2 else [] for image, truth in enumerate(truths)]
    return {"candidates": [head + caption(5) for head in heads], "references": truths}


def odd_corpora() -> dict[str, dict[str, Any]]:
    """What divides by zero in careless code."""
    sentence, other = ["a", "red", "dog", "runs", "on", "the", "red", "grass"], ["two", "cats"]
    return {
        "one image": {"candidates": [sentence[:5]], "references": [[sentence, other]]},
        "all right": {"candidates": [sentence, other], "references": [[sentence], [other, sentence]]},
        "all wrong": {"candidates": [["x", "y"], ["z"]], "references": [[sentence], [other]]},
        "empty candidate": {"candidates": [[], sentence], "references": [[sentence], [other, sentence[1:]]]},
        "empty reference": {"candidates": [other, []], "references": [[[], sentence], [[], other]]},
        "repeated words": {"candidates": [["the"] * 7, sentence], "references": [[["the", "cat"]], [sentence[::-1]]]},
        "two lengths equally near": {"candidates": [sentence[:4]], "references": [[sentence[:6], sentence[:2]]]},
    }


def score_by_peer(corpus: dict[str, Any]) -> dict[str, float]:
    """pycocoevalcap's scores; its Java tokenizer is not used."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truths = {index: [" ".join(words) for words in truth] for index, truth in enumerate(corpus["references"])}
    said = {index: [" ".join(words)] for index, words in enumerate(corpus["candidates"])}
    scores = {
        f"bleu_{order}": score for order, score in enumerate(Bleu(4).compute_score(truths, said, verbose=0)[0], 1)
    }
    scores["rouge_l"] = Rouge().compute_score(truths, said)[0]
    scores["cider_d"] = Cider().compute_score(truths, said)[0]
    return {name: float(score) for name, score in scores.items()}


def main() -> None:
    """Stores every odd corpus and two made by chance, with their scores."""
    corpora = odd_corpora() | {"made 1": make_corpus(13, 5, seed=1), "made 2": make_corpus(7, 3, seed=2, vocab_size=4)}
    stored = {name: corpus | {"scores": score_by_peer(corpus)} for name, corpus in corpora.items()}
    STORED.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in stored.items())
    STORED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
