"""Scenes checked from the pixels and the words alone, by code that shares nothing with the code that makes them."""

import collections
import pickle
import re

import numpy as np
import pytest

from fusionjax.data import Scenes, combination_split
from fusionjax.data.grammar import COLORS, OBJECTS, SPLITS, SceneObject, combinations
from fusionjax.data.shapes import SHAPES

SENTENCE = re.compile(r"(an? (\w+) (\w+)) (left of|right of|above|below) (an? (\w+) (\w+))")
# Hue in degrees, saturation and brightness are judged by hand-set bounds, not by the paints.
HUES = {"red": (345, 15), "orange": (15, 42), "yellow": (42, 68), "green": (100, 170), "blue": (205, 245)}


def parse(sentence):
    match = SENTENCE.fullmatch(sentence)
    assert match, sentence
    for article, color in ((match[1], match[2]), (match[5], match[6])):
        assert article.startswith("an ") == (color == "orange")
    return (match[2], match[3]), match[4], (match[6], match[7])


def holds(relation, first, second):
    """Whether a relation holds between two boxes: apart along one direction, in line along the other."""
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = first, second
    return {
        "left of": right < other_left,
        "right of": left > other_right,
        "above": bottom < other_top,
        "below": top > other_bottom,
    }[relation]


def is_true(sentence, boxes):
    first, relation, second = parse(sentence)
    where = {(box["color"], box["shape"]): box["box"] for box in boxes}
    return first in where and second in where and holds(relation, where[first], where[second])


def name_color(pixel):
    red, green, blue = (float(value) / 255 for value in pixel)
    high, low = max(red, green, blue), min(red, green, blue)
    span = high - low
    if high == red:
        hue = ((green - blue) / span * 60) % 360
    elif high == green:
        hue = (blue - red) / span * 60 + 120
    else:
        hue = (red - green) / span * 60 + 240
    for name, (low_hue, high_hue) in HUES.items():
        if (low_hue <= hue < high_hue) if low_hue < high_hue else (hue >= low_hue or hue < high_hue):
            return name
    return "purple" if 260 <= hue < 320 else f"hue {hue:.0f}"


def object_masks(image):
    """Finds the two objects in a picture: what is far from the light background, split into connected parts."""
    dark = image.astype(int).max(axis=2) - image.astype(int).min(axis=2) > 75
    labels = np.zeros(dark.shape, int)
    for start in zip(*np.nonzero(dark), strict=True):
        if labels[start]:
            continue
        number, stack = labels.max() + 1, [start]
        while stack:
            row, column = stack.pop()
            if (
                0 <= row < dark.shape[0]
                and 0 <= column < dark.shape[1]
                and dark[row, column]
                and not labels[row, column]
            ):
                labels[row, column] = number
                stack += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    masks = [labels == number for number in range(1, labels.max() + 1)]
    return [mask for mask in masks if mask.sum() > 0.004 * mask.size]


def name_shape(mask):
    """Tells the shapes apart by the share of their box that they fill and by where."""
    rows, columns = np.nonzero(mask)
    window = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    filled = window.mean()
    side_rows = window[[0, 1, -2, -1]].mean(axis=1)
    if filled > 0.92:
        return "square"
    if filled > 0.7:
        return "circle"
    middle = window[int(0.3 * len(window)) : int(0.45 * len(window))].mean()
    low = window[int(0.8 * len(window)) : int(0.95 * len(window))].mean()
    if low > 0.75:
        return "triangle"
    # A cross is as wide at its foot as at its head, and full across its middle; a star has a gap between its feet.
    center_foot = window[-3:, window.shape[1] // 2].mean()
    return "cross" if center_foot > 0.5 and side_rows[0] > 0.2 else ("star" if middle > 0.3 else "unknown")


def test_splits_share_no_combination_and_cover_all():
    pairs = {split: {frozenset(pair) for pair in combinations(split)} for split in SPLITS}
    assert not pairs["train"] & pairs["test"]
    assert not pairs["train"] & pairs["validation"]
    assert not pairs["test"] & pairs["validation"]
    total = sum(len(members) for members in pairs.values())
    assert total == len(OBJECTS) * (len(OBJECTS) - 1) // 2 == 435
    assert len(pairs["test"]) / total == pytest.approx(0.15, abs=0.03)
    assert len(pairs["validation"]) / total == pytest.approx(0.05, abs=0.02)
    first, second = next(iter(pairs["test"]))
    assert combination_split(first, second) == combination_split(tuple(second), tuple(first)) == "test"
    assert {thing for pair in pairs["train"] for thing in pair} == set(OBJECTS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_text_of_a_split_speaks_of_its_own_combinations_only(split):
    for scene in Scenes(split, size=300, image_size=16):
        shown = [SceneObject(box["color"], box["shape"]) for box in scene["boxes"]]
        assert combination_split(*shown) == split
        first, _, second = parse(scene["sentence"])
        assert combination_split(SceneObject(*first), SceneObject(*second)) == split
        for question in scene["questions"]:
            named = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", question["question"])
            if len(named) == 2:
                assert combination_split(*(SceneObject(*thing) for thing in named)) == split


def test_captions_are_all_the_true_statements_recomputed_from_the_boxes():
    for scene in Scenes("train", size=300, image_size=48):
        things = [(box["color"], box["shape"], box["box"]) for box in scene["boxes"]]
        true = set()
        for first, second in ((things[0], things[1]), (things[1], things[0])):
            for relation in ("left of", "right of", "above", "below"):
                if holds(relation, first[2], second[2]):
                    true.add(" ".join((*first[:2], relation, *second[:2])))
        assert {re.sub(r"\ban? ", "", caption) for caption in scene["captions"]} == true
        assert len(true) == 2
        assert scene["caption"] in scene["captions"]


def test_boxes_lie_in_the_picture_and_the_relation_is_unambiguous():
    for scene in Scenes("test", size=300, image_size=64):
        boxes = [np.array(box["box"]) for box in scene["boxes"]]
        assert all((box >= 0).all() and (box <= 64).all() for box in boxes)
        centers = [(box[:2] + box[2:]) / 2 for box in boxes]
        across, down = np.abs(centers[0] - centers[1])
        assert min(across, down) < 0.5 * max(across, down)


def test_colours_shapes_and_places_recomputed_from_the_pixels():
    for scene in Scenes("train", size=150, image_size=96):
        masks = object_masks(scene["image"])
        assert len(masks) == 2, scene["id"]
        seen = []
        for mask in masks:
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            # The middle of a shape is never at its blended edge.
            paint = np.median(scene["image"][mask], axis=0)
            seen.append((name_color(paint), name_shape(mask), box))
        for box in scene["boxes"]:
            match = [found for found in seen if found[:2] == (box["color"], box["shape"])]
            assert len(match) == 1, (scene["id"], seen, scene["boxes"])
            assert np.abs(np.array(match[0][2]) - box["box"]).max() < 3.2


def test_labels_are_the_truth_of_the_sentence_and_balanced():
    scenes = Scenes("train", size=600, image_size=16)
    labels = []
    for scene in scenes:
        assert scene["label"] == is_true(scene["sentence"], scene["boxes"]), scene["id"]
        assert scene["label_name"] == ("false", "true")[scene["label"]]
        labels.append(scene["label"])
    assert sum(labels) == 300
    # No pattern a model could read off the order: runs of equal labels occur as well as changes.
    changes = np.mean(np.diff(labels) != 0)
    assert 0.6 < changes < 0.9


def test_false_sentences_change_every_kind_of_thing():
    kinds = collections.Counter()
    for scene in Scenes("train", size=800, image_size=16):
        if scene["label"]:
            continue
        said = parse(scene["sentence"])
        best = min(
            (sum(a != b for a, b in zip(_flat(said), _flat(parse(caption)), strict=True)), caption)
            for caption in scene["captions"]
        )
        true = parse(best[1])
        if best[0] == 1:
            changed = next(i for i, (a, b) in enumerate(zip(_flat(said), _flat(true), strict=True)) if a != b)
            kinds[("color", "shape", "relation", "color", "shape")[changed]] += 1
        else:
            kinds["order"] += 1
            assert (said[2], said[1], said[0]) == true or (said[0], said[2]) == (true[0], true[2])
    assert set(kinds) >= {"color", "shape", "relation"}
    assert min(kinds["color"], kinds["shape"], kinds["relation"]) > 40, kinds


def _flat(statement):
    return (*statement[0], statement[1], *statement[2])


def test_words_alone_say_little_about_the_label():
    counts = collections.defaultdict(lambda: [0, 0])
    for scene in Scenes("train", size=1500, image_size=16):
        for word in set(scene["sentence"].split()):
            counts[word][scene["label"]] += 1
    for word, (false, true) in counts.items():
        assert 0.4 < true / (false + true) < 0.6, (word, false, true)


def answer(question, boxes):
    """Answers a question from the boxes."""
    words = question.rstrip("?").split()
    things = {(box["color"], box["shape"]): box["box"] for box in boxes}
    if question.startswith("what color"):
        return next(color for color, shape in things if shape == words[-1])
    if question.startswith("what shape"):
        return next(shape for color, shape in things if color == words[-2])
    if question.startswith("how many"):
        singular = {f"{shape}es" if shape.endswith("s") else f"{shape}s": shape for shape in SHAPES}[words[2]]
        return str(sum(shape == singular for _, shape in things))
    if question.startswith("is there"):
        return "yes" if (words[-2], words[-1]) in things else "no"
    match = re.fullmatch(r"(?:what is|is the (\w+) (\w+)) (left of|right of|above|below) the (\w+) (\w+)\?", question)
    second = things.get((match[4], match[5]))
    if match[1] is None:
        return next(" ".join(thing) for thing, box in things.items() if box != second and holds(match[3], box, second))
    first = things.get((match[1], match[2]))
    return "yes" if first and second and holds(match[3], first, second) else "no"


def test_questions_have_the_answers_that_the_boxes_give():
    answers = collections.defaultdict(collections.Counter)
    for scene in Scenes("validation", size=600, image_size=16):
        assert len({question["type"] for question in scene["questions"]}) == len(scene["questions"]) >= 4
        for question in scene["questions"]:
            assert question["answer"] == answer(question["question"], scene["boxes"]), (scene["id"], question)
            answers[question["type"]][question["answer"]] += 1
    assert set(answers) == {"color", "shape", "object", "verify", "exists", "count"}
    for kind in ("verify", "exists"):
        assert abs(answers[kind]["yes"] - answers[kind]["no"]) < 100
    assert set(answers["count"]) == {"0", "1", "2"}


def _same(first, second):
    assert first.keys() == second.keys()
    np.testing.assert_array_equal(first["image"], second["image"])
    rest = [{key: value for key, value in scene.items() if key != "image"} for scene in (first, second)]
    assert rest[0] == rest[1]


def test_scenes_depend_on_seed_split_and_index_alone():
    scenes = Scenes("train", size=50, seed=7)
    again = pickle.loads(pickle.dumps(Scenes("train", size=20, seed=7)))
    for index in (13, 2, 19):
        _same(scenes[index], again[index])
    _same(scenes[-1], scenes[49])
    _same(scenes[3:5][1], scenes[np.int64(4)])
    for other in (Scenes("train", size=50, seed=8), Scenes("test", size=50, seed=7)):
        assert (other[13]["image"] != scenes[13]["image"]).any()
    pictures = {scene["image"].tobytes() for scene in scenes}
    assert len(pictures) == len({scene["id"] for scene in scenes}) == 50


def test_picture_has_the_asked_size_and_the_same_layout():
    small, large = Scenes("train", size=3, image_size=32)[1], Scenes("train", size=3, image_size=128)[1]
    assert small["image"].shape == (32, 32, 3)
    assert small["image"].dtype == np.uint8
    np.testing.assert_allclose(np.array(small["boxes"][0]["box"]) * 4, large["boxes"][0]["box"], rtol=1e-5)
    averaged = large["image"].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small["image"]).mean() < 2
    assert len(Scenes("train")) == 10_000


def test_edges_are_smooth():
    scene = Scenes("train", size=1, image_size=64)[0]
    red = scene["image"].astype(int)
    assert len(np.unique(red.reshape(-1, 3), axis=0)) > 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test; got 'dev'"),
        ({"size": -1}, "size must be 0 or more; got -1"),
        ({"image_size": 8}, "image_size must be at least 16 pixels; got 8"),
        ({"seed": -3}, "seed must be 0 or more; got -3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


def test_index_out_of_range_is_named():
    with pytest.raises(IndexError, match=r"scene index must be in \[0, 5\); got 5"):
        Scenes(size=5)[5]
    assert [scene["id"] for scene in Scenes("test", size=2)] == ["scenes-0-test-0", "scenes-0-test-1"]
