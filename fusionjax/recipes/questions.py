"""Questions about images, encoded: what the recipe of question answering learns from and is measured on."""

import collections
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusionjax import data
from fusionjax.errors import InputError
from fusionjax.recipes.config import DataConfig
from fusionjax.recipes.sources import Examples, ImageTransform

_logger = logging.getLogger("fusionjax")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How questions and answers become numbers.

    Attributes:
        tokenizer: of questions, and of answers that are written.
        answers: to choose from, by number.
    """

    tokenizer: data.Tokenizer
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class QuestionSet(Sequence[dict[str, Any]]):
    """The questions of a part of the data, several about one image together.

    Attributes:
        examples: with images.
        asked: the questions of each example, with answer and type.
        tokens: of each example, `[questions, length]` int32.
        labels: the answers' numbers, `[questions]` int32; -1 for an answer that is not among them.
        places: which questions of which example belong together: example, first, end.
    """

    examples: Examples
    asked: tuple[tuple[Mapping[str, Any], ...], ...]
    tokens: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    places: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place, start, end = self.places[index]
        return {
            "image": self.examples[place]["image"],
            "text": self.tokens[place][start:end],
            "label": self.labels[place][start:end],
            "answer": [str(one["answer"]) for one in self.asked[place][start:end]],
        }

    def questions(self) -> Iterator[Mapping[str, Any]]:
        """Gives every question, in the order of the places."""
        for place, start, end in self.places:
            yield from self.asked[place][start:end]

    def in_groups(self, size: int) -> "QuestionSet":
        """The same questions, each once, so many of an image together at most."""
        places = [
            (place, start, min(start + size, len(one)))
            for place, one in enumerate(self.asked)
            for start in range(0, len(one), size)
        ]
        return dataclasses.replace(self, places=tuple(places))


def read_questions(examples: Examples) -> tuple[tuple[Mapping[str, Any], ...], ...]:
    """Reads the questions of every example.

    Args:
        examples: each with `questions`, or with one `question` and its `answer`.

    Returns:
        The questions of each example, with `question`, `answer` and `type`.

    Raises:
        InputError: an example has no question, an empty one, or one without an answer.
    """
    found = []
    for place in range(len(examples)):
        example = examples.describe(place)
        name = example.get("id", place)
        questions = example.get("questions")
        if questions is None:
            if "question" not in example:
                raise InputError(
                    f"question answering needs questions of every example; {name} has none. "
                    "Take another source, or map fields to question and answer."
                )
            questions = [example]
        asked = [{**one, "type": str(one.get("type", "all"))} for one in questions]
        for one in asked:
            if not str(one["question"]).strip():
                raise InputError(f"a question must not be empty; got one of {name}. Correct or remove it.")
            if not str(one.get("answer", "")).strip():
                raise InputError(f"a question must have an answer; {one['question']!r} of {name} has none. Add it.")
        # The example's other entries, such as its image, stay where they are.
        kept = ("question", "answer", "type", "answers")
        found.append(tuple({key: one[key] for key in kept if key in one} for one in asked))
    return tuple(found)


def learn_vocabulary(asked: Sequence[Sequence[Mapping[str, Any]]], config: DataConfig) -> Vocabulary:
    """Learns the words of the questions and answers, and lists the answers to choose from.

    Args:
        asked: the questions of the training part.
        config: the tokenizer's settings, and how many answers at most: the commonest.

    Returns:
        The vocabulary.

    Raises:
        InputError: all questions have one answer.
    """
    questions = [one for group in asked for one in group]
    texts = [str(one[name]) for one in questions for name in ("question", "answer")]
    tokenizer = data.train_tokenizer(
        texts, kind=config.tokenizer, vocab_size=config.vocab_size, min_count=config.min_count
    )
    counts = collections.Counter(str(one["answer"]) for one in questions)
    commonest = sorted(counts, key=lambda answer: (-counts[answer], answer))[: config.max_answers]
    if len(commonest) < 2:
        raise InputError(f"question answering needs two answers or more; got {', '.join(commonest)}. Check the data.")
    return Vocabulary(tokenizer, tuple(sorted(commonest)))


def encode_questions(
    examples: Examples,
    asked: Sequence[Sequence[Mapping[str, Any]]],
    vocabulary: Vocabulary,
    config: DataConfig,
    part: str,
) -> QuestionSet:
    """Encodes the questions of a part.

    Args:
        examples: with images.
        asked: their questions.
        vocabulary: of the training.
        config: the length of a question.
        part: its name, for messages.

    Returns:
        The questions, those of an image together.

    Raises:
        InputError: no question has an answer that was learned.
    """
    numbers = {answer: number for number, answer in enumerate(vocabulary.answers)}
    tokens, labels = [], []
    for group in asked:
        texts = [str(one["question"]) for one in group]
        tokens.append(
            vocabulary.tokenizer.encode_batch(texts, config.max_length) if texts else np.zeros((0, 1), np.int32)
        )
        labels.append(np.array([numbers.get(str(one["answer"]), -1) for one in group], np.int32))
    unknown = sum(int((one < 0).sum()) for one in labels)
    total = sum(map(len, labels))
    if total and unknown == total:
        first = next(one for group in asked for one in group)
        raise InputError(
            f"the answers of the part {part!r} must be among the {len(numbers)} learned; none is, such as "
            f"{first['answer']!r}. Train with them."
        )
    if unknown:
        _logger.warning(
            "%d of %d questions of the part %r have an answer that is not among the %d learned; they count as wrong",
            unknown,
            total,
            part,
            len(numbers),
        )
    whole = QuestionSet(examples, tuple(map(tuple, asked)), tuple(tokens), tuple(labels), ())
    return whole.in_groups(max(map(len, labels), default=1) or 1)


@dataclasses.dataclass(frozen=True)
class QuestionTransform:
    """Makes the arrays of some questions about one image.

    Attributes:
        config: sizes and augmentation.
        count: questions; more are drawn from by chance in training, fewer are filled up with weight 0.
        training: whether to augment and to draw.
        tokenizer: of answers that are written; None leaves them out.
    """

    config: DataConfig
    count: int
    training: bool
    tokenizer: data.Tokenizer | None = None

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms the questions of one image.

        Args:
            example: of a `QuestionSet`.
            rng: what chance depends on.

        Returns:
            `image` uint8 `[size, size, 3]`, `text` int32 `[count, length]`, `label` int32 `[count]`, `weight` float32
            `[count]`, and `answer` int32 `[count, answer_length]` where answers are written.
        """
        total = len(example["label"])
        chosen = rng.permutation(total)[: self.count] if self.training else np.arange(min(total, self.count))
        missing = self.count - len(chosen)
        label = np.pad(example["label"][chosen], (0, missing), constant_values=-1)
        # A question without words would leave the text encoder nothing to read.
        text = np.pad(example["text"][chosen], ((0, missing), (0, 0)), mode="edge" if len(chosen) else "constant")
        arrays = {
            "image": ImageTransform(self.config, self.training)(example["image"], rng),
            "text": text,
            "label": np.maximum(label, 0).astype(np.int32),
            "weight": (label >= 0).astype(np.float32),
        }
        if self.tokenizer is not None:
            answers = [example["answer"][place] for place in chosen]
            encoded = self.tokenizer.encode_batch(answers, self.config.answer_length)
            arrays["answer"] = np.pad(encoded, ((0, missing), (0, 0)), mode="edge" if len(chosen) else "constant")
        return arrays
