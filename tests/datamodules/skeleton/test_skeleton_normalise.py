"""Choice of persons, gaps, centring and alignment."""

import numpy as np

from datamodules.skeleton.normalise import choose_persons, fill_gaps, normalise


def walk(frames: int, size: float = 1.0, seed: int = 0) -> np.ndarray:
    """A person [T, J, C] who moves."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(25, 3)) + 0.1 * rng.normal(size=(frames, 25, 3)).cumsum(0)) * size + [0.3, 0.2, 3.0]


def test_the_two_bodies_that_move_most_are_kept() -> None:
    bodies = np.stack([walk(10, 0.1), walk(10, 1.0), walk(10, 2.0, seed=1), np.zeros((10, 25, 3))])
    chosen = choose_persons(bodies)
    np.testing.assert_array_equal(chosen, bodies[[2, 1]])


def test_energy_counts_only_frames_in_which_a_body_was_seen() -> None:
    steady, gone = walk(10, 1.0), walk(10, 0.9, seed=0)
    # With its empty frames counted, the second would spread wide between 3 m and nowhere.
    gone[3:] = 0
    np.testing.assert_array_equal(choose_persons(np.stack([gone, steady]))[0], steady)


def test_one_or_no_body() -> None:
    alone = walk(4)[None]
    chosen = choose_persons(alone)
    np.testing.assert_array_equal(chosen[0], alone[0])
    assert chosen.shape == (2, 4, 25, 3)
    assert not chosen[1].any()
    assert not choose_persons(np.zeros((4, 3, 25, 3))).any()


def test_seen_frames_repeat_over_the_empty_ones_behind_them() -> None:
    person = walk(11)
    person[4:] = 0
    filled = fill_gaps(person)
    for frame in range(11):
        np.testing.assert_array_equal(filled[frame], person[frame % 4])


def test_gaps_in_the_middle_stay_unless_the_first_frame_is_empty() -> None:
    person = walk(8)
    person[[2, 3, 7]] = 0
    filled = fill_gaps(person)
    np.testing.assert_array_equal(filled[:7], person[:7])
    np.testing.assert_array_equal(filled[7], person[0])
    late = person.copy()
    late[0] = 0
    # Seen were 1, 4, 5, 6: they move to the front and repeat.
    np.testing.assert_array_equal(fill_gaps(late), late[[1, 4, 5, 6, 1, 4, 5, 6]])
    assert not fill_gaps(np.zeros((3, 25, 3))).any()


def test_origin_and_shoulders() -> None:
    persons = np.stack([walk(30), walk(30, seed=1)])
    persons[1, 10:] = 0
    persons[0, 20:] = 0
    found = normalise(persons)
    assert found.dtype == np.float32
    # Joint 1 of the first person is the origin of every frame, also of filled ones.
    np.testing.assert_array_equal(found[0, :, 1], 0)
    shoulders = found[0, 0, 8] - found[0, 0, 4]
    assert shoulders[0] > 0
    assert np.abs(shoulders[1:]).max() < 1e-5
    # Rotation and translation keep distances, also those between the persons.
    before = np.linalg.norm(persons[1, :10, 3] - persons[0, :10, 1], axis=1)
    np.testing.assert_allclose(np.linalg.norm(found[1, :10, 3], axis=1), before, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[0, 20:, 5], axis=1), np.linalg.norm(found[0, :10, 5], axis=1), rtol=1e-6)


def test_the_spine_is_turned_up_before_the_shoulders() -> None:
    person = walk(3)
    # Shoulders at a right angle to the spine: then both can be aligned, and the order does not matter.
    person[0, 0], person[0, 1], person[0, 4], person[0, 8] = (1, 1, 1), (1, 2, 1), (1, 2, 3), (1, 2, 1)
    found = normalise(np.stack([person, np.zeros_like(person)]))[0, 0]
    np.testing.assert_allclose(found[1] - found[0], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found[8] - found[4], [2, 0, 0], atol=1e-6)


def test_an_absent_person_stays_absent() -> None:
    assert not normalise(np.stack([walk(5), np.zeros((5, 25, 3))]))[1].any()
    assert not normalise(np.zeros((2, 5, 25, 3))).any()


def test_padding_changes_nothing_before_it() -> None:
    persons = np.stack([walk(12), walk(12, seed=2)])
    persons[0, :2] = 0
    persons[1, 5:7] = 0
    padded = np.concatenate([persons, np.zeros((2, 20, 25, 3))], 1)
    np.testing.assert_array_equal(normalise(padded)[:, :12], normalise(persons))
