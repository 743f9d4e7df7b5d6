"""Sort-of-CLEVR checked from pixels large enough that every distance can be told, and against the paper's numbers."""

import collections
import itertools
import pickle

import numpy as np
import pytest

from fusionjax.data import SortOfClevr, sort_of_clevr

COLORS = ("red", "green", "blue", "orange", "gray", "yellow")
KINDS = (
    *(f"non-relational {subject}" for subject in ("shape", "left", "top")),
    *(f"relational {subject}" for subject in ("closest", "furthest", "count")),
)


def name_color(pixel):
    """Judges by hand-set bounds, not by the paints."""
    red, green, blue = (int(value) for value in pixel)
    if max(red, green, blue) - min(red, green, blue) < 30:
        return "gray"
    if red > 200 and green > 100:
        return "yellow" if green > 190 else "orange"
    return ("red", "green", "blue")[int(np.argmax((red, green, blue)))]


def look(image):
    """Finds every object's centre (across, down) and shape, and the number of its pixels."""
    found = {}
    codes = image.astype(int) @ (1 << 16, 1 << 8, 1)
    for code in set(np.unique(codes)) - {0xFFFFFF}:
        rows, columns = np.nonzero(codes == code)
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        name = name_color((code >> 16, code >> 8 & 255, code & 255))
        assert name not in found
        center = np.array(((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2))
        found[name] = (center, "square" if len(rows) == box else "circle", len(rows), np.ptp(columns) + 1)
    return found


def answer(kind, name, objects, side):
    center, shape, *_ = objects[name]
    others = {other: objects[other] for other in objects if other != name}
    by_distance = sorted(others, key=lambda other: np.hypot(*(others[other][0] - center)))
    return {
        "non-relational shape": shape,
        "non-relational left": "yes" if center[0] < side / 2 else "no",
        "non-relational top": "yes" if center[1] < side / 2 else "no",
        "relational closest": others[by_distance[0]][1],
        "relational furthest": others[by_distance[-1]][1],
        "relational count": str(1 + sum(other[1] == shape for other in others.values())),
    }[kind]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_the_one_that_the_pixels_give(split):
    """At 750 pixels half a pixel of 75 is five, so no distance is too close to be told."""
    for example in SortOfClevr(split, size=12, image_size=750):
        objects = look(example["image"])
        assert set(objects) == set(COLORS)
        for one in example["questions"]:
            name, subject = one["question"].rstrip("?").split()
            assert subject == one["type"].split()[1]
            assert one["answer"] == answer(one["type"], name, objects, 750), (example["id"], one)


def test_no_two_distances_from_an_object_are_alike():
    for example in SortOfClevr("validation", size=12, image_size=750):
        objects = look(example["image"])
        for name in COLORS:
            far = sorted(np.hypot(*(objects[name][0] - objects[other][0])) for other in COLORS if other != name)
            assert far[1] - far[0] > 2
            assert far[-1] - far[-2] > 2
            assert np.abs(objects[name][0] - 375).min() > 2


def test_objects_have_the_paper_s_size_whole_and_apart():
    """Of 75 pixels a width of 11; a pixel more or less of another size. What is covered would have fewer pixels."""
    for side, width in ((75, 11), (150, 22), (375, 55)):
        for example in SortOfClevr("train", size=15, image_size=side):
            for _, shape, pixels, wide in look(example["image"]).values():
                if shape == "square":
                    assert pixels == width**2
                else:
                    assert wide in (width - 1, width)
                    assert pixels == pytest.approx(np.pi / 4 * width**2, rel=0.06)
            objects = look(example["image"]).values()
            for (first, *_), (second, *_) in itertools.combinations(objects, 2):
                assert np.abs(first - second).max() >= width - 1


def test_sizes_are_the_paper_s():
    assert [len(SortOfClevr(split)) for split in ("train", "validation", "test")] == [9_800, 200, 200]


def test_chances_of_shapes_questions_and_colours():
    shapes, kinds, colors, sides = (collections.Counter() for _ in range(4))
    for example in SortOfClevr("train", size=400):
        shapes.update(found[1] for found in look(example["image"]).values())
        for one in example["questions"]:
            kinds[one["type"]] += 1
            colors[next(name for name in COLORS if one["question"].startswith(name))] += 1
            if one["type"] in ("non-relational left", "non-relational top"):
                sides[one["type"], one["answer"]] += 1
    assert shapes["square"] / shapes.total() == pytest.approx(0.5, abs=0.03)
    # Of 8,000 questions, each of 6 types and of 6 colours.
    assert kinds.keys() == set(KINDS) and colors.keys() == set(COLORS)
    assert all(count == pytest.approx(8000 / 6, rel=0.1) for count in (*kinds.values(), *colors.values()))
    assert all(count == pytest.approx(sides.total() / 4, rel=0.1) for count in sides.values())


def test_pictures_of_all_sizes_have_one_layout_and_one_text():
    small, large = SortOfClevr("test", image_size=75)[5], SortOfClevr("test", image_size=225)[5]
    assert small["questions"] == large["questions"]
    near, far = look(small["image"]), look(large["image"])
    for name in COLORS:
        np.testing.assert_allclose(near[name][0] * 3, far[name][0], atol=3)


def test_index_and_pickle():
    pictures = SortOfClevr("validation", size=7, seed=3)
    again = pickle.loads(pickle.dumps(pictures))
    assert again[-1]["id"] == pictures[np.int64(6)]["id"] == "sort-of-clevr-3-validation-6"
    np.testing.assert_array_equal(again[-1]["image"], pictures[6]["image"])
    assert [one["id"] for one in pictures[5:]] == [pictures[5]["id"], pictures[6]["id"]]
    assert len({one["image"].tobytes() for one in pictures}) == 7
    with pytest.raises(IndexError, match=r"picture index must be in \[0, 7\); got -8. Ask for a larger size."):
        pictures[-8]


def test_what_is_remembered_cannot_be_changed_and_stays_small(monkeypatch):
    monkeypatch.setattr(sort_of_clevr, "_MOST_KNOWN", 2)
    pictures = SortOfClevr("test", size=5)
    first = [pictures[place] for place in range(5)]
    for example in first:
        example["questions"][3]["answer"] = "changed"
    for one, fresh in zip(pictures, SortOfClevr("test", size=5), strict=True):
        assert one["questions"] == fresh["questions"]
        np.testing.assert_array_equal(one["image"], fresh["image"])
    assert len(pictures._known) == 2
    assert not pickle.loads(pickle.dumps(pictures))._known
