"""Scenes of more than two objects, checked from boxes and words by code that shares nothing with their making."""

import collections
import functools
import hashlib
import itertools
import json
import pickle
import re

import numpy as np
import pytest

from fusionjax.data import Scenes, combination_split, layout, relations
from fusionjax.data.grammar import COLORS, OBJECTS, SPLITS, SceneObject, Statement, combinations
from fusionjax.data.shapes import SHAPES

SIDE, SIZE = 64, 250
THING = rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
AHEAD = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
RELATION = re.compile(rf"what color is the object ({'|'.join(AHEAD)}) the {THING}\?")
NEAREST = re.compile(rf"what color is the object nearest to the {THING}\?")
ALIKE = re.compile(rf"how many objects have the (shape|color) of the {THING}\?")
# Pixels that a person can see; every measure is one of centres of boxes, up to 1.5 pixels off those of the shapes.
MARGIN = 2.5
EVERY = pytest.mark.parametrize(("split", "objects"), list(itertools.product(SPLITS, (3, 4, 5, 6))))


@functools.cache
def make(split, objects):
    return list(Scenes(split, size=SIZE, image_size=SIDE, objects=objects))


def centers(scene):
    return {
        (box["color"], box["shape"]): np.array((box["box"][:2], box["box"][2:])).mean(0).round(6)
        for box in scene["boxes"]
    }


def read(scene):
    """The relational questions of a scene: the first with both words of its answer, and what is alike."""
    by_color, by_shape, alike, *_ = scene["questions"]
    assert by_shape["question"] == by_color["question"].replace("what color", "what shape")
    assert by_shape["type"] == by_color["type"]
    return {**by_color, "answer": f"{by_color['answer']} {by_shape['answer']}"}, alike


def lead(relation, first, second):
    """By how much the first lies further in a direction than to either side of it, seen from the second."""
    offset, ahead = first - second, np.array(AHEAD[relation])
    return offset @ ahead - abs(offset @ ahead[::-1])


def digest(scenes):
    """Of all words, and of boxes to the thousandth of a pixel."""
    words = [{name: value for name, value in scene.items() if name != "image"} for scene in scenes]
    for scene in words:
        scene["boxes"] = [(*np.round(box["box"], 3).tolist(), box["shape"], box["color"]) for box in scene["boxes"]]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "objects", "expected", "shade"),
    [
        ("train", 2, "9410d2e545a15911", 215.316),
        ("validation", 2, "443841d2bc5e79fe", 216.315),
        ("test", 2, "04a4c43dc3ed26ec", 216.895),
        ("train", 5, "3edce33cbdf9768c", 213.206),
        ("test", 6, "084b950a3564e824", 210.912),
    ],
)
def test_scenes_stay_as_they_are(split, objects, expected, shade):
    scenes = Scenes(split, size=20, image_size=48, seed=5, objects=objects)[:]
    assert digest(scenes) == expected
    assert np.mean([scene["image"] for scene in scenes]) == pytest.approx(shade, abs=0.01)


def test_scenes_depend_on_seed_split_index_and_number_alone():
    scenes = Scenes("train", size=30, objects=4)
    again = pickle.loads(pickle.dumps(Scenes("train", size=12, objects=4)))
    for index in (11, 2, 7):
        np.testing.assert_array_equal(scenes[index]["image"], again[index]["image"])
        assert digest([scenes[index]]) == digest([again[index]])
    others = [Scenes("train", objects=5), Scenes("train", objects=4, seed=1), Scenes("test", objects=4)]
    assert len({scene[3]["id"] for scene in (scenes, *others, Scenes("train"))}) == 5
    assert len({scene[3]["image"].tobytes() for scene in (scenes, *others, Scenes("train"))}) == 5
    assert repr(scenes) == "Scenes('train', size=30, image_size=64, seed=0, objects=4)"
    assert repr(Scenes("test", size=1)) == "Scenes('test', size=1, image_size=64, seed=0)"
    small, large = Scenes(image_size=32, objects=6)[1], Scenes(image_size=128, objects=6)[1]
    np.testing.assert_allclose([np.array(box["box"]) * 4 for box in small["boxes"]], [b["box"] for b in large["boxes"]])
    assert small["questions"] == large["questions"]


@EVERY
def test_combinations_of_other_splits_are_never_seen_in_training(split, objects):
    for scene in make(split, objects):
        things = [SceneObject(*thing) for thing in centers(scene)]
        assert len(things) == objects
        assert combination_split(*things[:2]) == split
        if split == "train":
            assert {combination_split(*pair) for pair in itertools.combinations(things, 2)} == {"train"}
        for sentence in (scene["sentence"], *scene["captions"]):
            assert combination_split(*(SceneObject(*named) for named in re.findall(THING, sentence))) == split
        found, alike = read(scene)
        named = re.findall(THING, f"{found['question']} {found['answer']}")
        assert len(named) == 2 and set(named) == set(things[:2])
        assert re.findall(THING, alike["question"])[0] in things[:2]


@EVERY
def test_questions_have_the_answers_that_the_boxes_give_by_a_margin(split, objects):
    for scene in make(split, objects):
        where = centers(scene)
        found, alike = read(scene)
        assert found["type"] in ("relation", "nearest") and alike["type"] == "alike"
        if match := RELATION.fullmatch(found["question"]):
            named, sign = where.pop((match[2], match[3])), 1
            scores = {thing: lead(match[1], place, named) for thing, place in where.items()}
            assert min(scores.values()) < -MARGIN, scene["id"]
        else:
            match, sign = NEAREST.fullmatch(found["question"]), -1
            named = where.pop((match[1], match[2]))
            scores = {thing: np.hypot(*(place - named)) for thing, place in where.items()}
        assert (found["type"] == "relation") == (sign == 1)
        best, second = sorted(scores, key=scores.get, reverse=sign == 1)[:2]
        assert found["answer"] == " ".join(best)
        assert sign * (scores[best] - scores[second]) > MARGIN, (scene["id"], scores)
        assert sign < 0 or scores[best] > MARGIN > -MARGIN > scores[second], (scene["id"], scores)
        match = ALIKE.fullmatch(alike["question"])
        value = match[{"color": 2, "shape": 3}[match[1]]]
        assert alike["answer"] == str(sum(box[match[1]] == value for box in scene["boxes"]))


@EVERY
def test_questions_about_one_object(split, objects):
    kinds = collections.Counter()
    for scene in make(split, objects):
        for question in scene["questions"][3:]:
            kinds[question["type"]] += 1
            text = question["question"].removesuffix("?").split()
            if question["type"] == "exists":
                there = tuple(text[-2:]) in centers(scene)
                assert question["answer"] == ("yes" if there else "no")
                kinds[question["answer"]] += 1
                continue
            asked = question["type"]
            told = {"color": "shape", "shape": "color"}[asked]
            word = text[-1] if asked == "color" else text[-2]
            assert question["question"] == (
                f"what color is the {word}?" if asked == "color" else f"what shape is the {word} object?"
            )
            assert [box[asked] for box in scene["boxes"] if box[told] == word] == [question["answer"]]
    assert kinds["exists"] == SIZE and 0.4 * SIZE < kinds["yes"] < 0.6 * SIZE
    assert min(kinds["color"], kinds["shape"]) > 0.1 * SIZE


@EVERY
def test_captions_are_true_and_sentences_as_their_label_says(split, objects):
    for scene in make(split, objects):
        where = centers(scene)

        def leads(sentence, where=where):
            first, second = re.findall(THING, sentence)
            relation = next(name for name in AHEAD if f" {name} " in sentence)
            if not {first, second} <= set(where):
                return None
            return {name: lead(name, where[first], where[second]) for name in AHEAD}, relation, {first, second}

        for caption in scene["captions"]:
            scores, relation, _ = leads(caption)
            assert scores[relation] > MARGIN > -MARGIN > max(scores[name] for name in AHEAD if name != relation)
        assert re.findall(THING, scene["captions"][0]) == list(where)[:2]
        assert scene["caption"] in scene["captions"]
        judged = leads(scene["sentence"])
        # What is false is said of an object that is not there, or of the main pair.
        assert judged is None or judged[2] == set(list(where)[:2])
        assert scene["label"] == (judged is not None and judged[0][judged[1]] > 0), scene["id"]


@EVERY
def test_boxes_are_apart_and_in_the_picture(split, objects):
    for scene in make(split, objects):
        boxes = np.array([box["box"] for box in scene["boxes"]])
        assert (boxes > 0).all() and (boxes < SIDE).all()
        for (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) in itertools.combinations(
            boxes, 2
        ):
            gaps = (other_left - right, left - other_right, other_top - bottom, top - other_bottom)
            assert max(gaps) > 0.7, scene["id"]


@pytest.mark.parametrize("objects", [3, 4, 5, 6])
def test_answers_are_balanced_and_no_simple_rule_finds_them(objects):
    answers, rules = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    pairs = collections.Counter()
    for scene in (*make("train", objects), *make("test", objects)):
        for question in scene["questions"]:
            answers[question["type"]][question["answer"]] += 1
        where, (found, alike) = centers(scene), read(scene)
        pairs[found["answer"]] += 1
        named = where.pop(re.findall(THING, found["question"])[0])
        right = tuple(found["answer"].split())
        offsets = {thing: place - named for thing, place in where.items()}
        if match := RELATION.fullmatch(found["question"]):
            ahead = np.array(AHEAD[match[1]])
            rules["outermost"].append(max(where, key=lambda thing: offsets[thing] @ ahead) == right)
            rules["nearest"].append(min(where, key=lambda thing: np.hypot(*offsets[thing])) == right)
        else:
            slant = {thing: np.abs(offset).min() / np.abs(offset).max() for thing, offset in offsets.items()}
            rules["straightest"].append(min(where, key=slant.get) == right)
        looks = re.match("how many objects have the (shape|color)", alike["question"])[1]
        largest = max(collections.Counter(box[looks] for box in scene["boxes"]).values())
        rules["largest"].append(str(largest) == alike["answer"])
    shares = {
        kind: {answer: count / counts.total() for answer, count in counts.items()} for kind, counts in answers.items()
    }
    assert max(shares["alike"].values()) < 0.4
    assert min(shares["alike"][count] for count in "123") > 0.12
    assert max(pairs.values()) / pairs.total() < 0.1
    assert max(*shares["relation"].values(), *shares["nearest"].values()) < 0.27
    assert abs(answers["relation"].total() - answers["nearest"].total()) < 0.4 * SIZE
    chance = 1 / (objects - 1)
    for rule in ("outermost", "nearest", "straightest"):
        assert np.mean(rules[rule]) < chance + 0.1, (rule, np.mean(rules[rule]))
    assert np.mean(rules["largest"]) < 0.85


def test_a_layout_is_found_soon(monkeypatch):
    tries, choose = [], layout._choose_places
    monkeypatch.setattr(layout, "_choose_places", lambda *words: tries.append(words) or choose(*words))
    most = 0
    for number, relation in itertools.product(range(60), AHEAD):
        tries.clear()
        layout.place_objects(6, relation, "relation", np.random.default_rng(number))
        most = max(most, len(tries))
    assert 1 < most < 60


def test_every_combination_of_the_training_can_be_completed():
    for number, (first, second) in enumerate(combinations("train")):
        rng = np.random.default_rng(number)
        things, _ = relations._choose_objects(Statement(first, "above", second), 6, "train", rng)
        assert things[:2] == (first, second) and len(set(things) & set(OBJECTS)) == 6
        assert {combination_split(*pair) for pair in itertools.combinations(things, 2)} == {"train"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": 1}, r"objects must be 2 to 6 shapes in each picture; got 1\. Choose one of these"),
        ({"objects": 7}, r"objects must be 2 to 6 shapes in each picture; got 7\. Choose one of these"),
        ({"objects": 3, "image_size": 31}, r"image_size must be at least 32 pixels; got 31\. Smaller shapes"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)
