import itertools
import random

import numpy as np
import pytest

from med42.data.packing import OPEN_CHUNKS, ChunkPlan, OnlineBestFit, best_fit_decreasing, exact_fill, fewest_chunks, plan_chunks

PLANNERS = [best_fit_decreasing, exact_fill, plan_chunks]


def array(lengths) -> np.ndarray:
    return np.asarray(lengths, np.int64)


def lengths_of(seed: int) -> tuple[np.ndarray, int]:
    """Random lengths in a chunk of random size, from all short to all long."""
    draw = random.Random(seed)
    chunk = draw.choice([1, 2, 7, 64, 256, 8192])
    most = draw.choice([chunk, max(1, chunk // 2), max(1, chunk // 10)])
    return array([draw.randint(1, most) for _ in range(draw.randrange(0, 300))]), chunk


def lists(plan: ChunkPlan) -> list[list[int]]:
    return [plan.members[start:end].tolist() for start, end in itertools.pairwise(plan.offsets.tolist())]


def one_by_one(lengths: list[int], chunk: int) -> list[int]:
    """Best-fit decreasing as the textbook has it: the sum of each chunk."""
    sums: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [place for place, total in enumerate(sums) if total + length <= chunk]
        if fitting:
            sums[max(fitting, key=lambda place: sums[place])] += length
        else:
            sums.append(length)
    return sorted(sums)


def fewest_of_all(lengths: list[int], chunk: int) -> int:
    """The least number of chunks, found by trying everything."""
    best = len(lengths)

    def place(rest: list[int], sums: list[int]) -> None:
        nonlocal best
        if len(sums) >= best:
            return
        if not rest:
            best = len(sums)
            return
        for number in range(len(sums)):
            if sums[number] + rest[0] <= chunk:
                place(rest[1:], [*sums[:number], sums[number] + rest[0], *sums[number + 1 :]])
        place(rest[1:], [*sums, rest[0]])

    place(sorted(lengths, reverse=True), [])
    return best


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("seed", range(60))
def test_every_document_once_and_no_chunk_too_full(seed, planner):
    lengths, chunk = lengths_of(seed)
    chunks = lists(planner(lengths, chunk))
    assert sorted(index for members in chunks for index in members) == list(range(len(lengths)))
    assert all(members and lengths[members].sum() <= chunk for members in chunks)


@pytest.mark.parametrize("seed", range(60))
def test_many_at_once_are_placed_as_one_by_one(seed):
    lengths, chunk = lengths_of(seed)
    sums = [int(lengths[members].sum()) for members in lists(best_fit_decreasing(lengths, chunk))]
    assert sorted(sums) == one_by_one(lengths.tolist(), chunk)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize(("lengths", "chunk"), [
    ([5] * 20, 10), ([1] * 100, 8), ([7, 3] * 15, 10), ([10] * 5, 10), ([6, 4, 5, 5, 9, 1, 8, 2, 7, 3], 10), (list(range(1, 65)), 65),
    ([1] * 7, 8), ([], 8),
])
def test_easy_sets_reach_the_bound(lengths, chunk, planner):
    assert len(planner(array(lengths), chunk)) == -(-sum(lengths) // chunk) == fewest_chunks(array(lengths), chunk)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_whole_chunks_fit_together_again(seed, planner):
    draw = random.Random(seed)
    cuts = [draw.randint(1, 255) for _ in range(50)]
    lengths = [*cuts, *(256 - cut for cut in cuts)]
    draw.shuffle(lengths)
    assert len(planner(array(lengths), 256)) == 50


def test_the_tightest_chunk_is_chosen():
    # 6, then 5; the 4 goes beside the 6, where it leaves nothing, and not beside the 5.
    assert lists(best_fit_decreasing(array([6, 5, 4]), 10)) == [[0, 2], [1]]


def test_exact_fill_takes_what_leaves_nothing():
    # Best fit puts the 4 beside the 7, which leaves 1 that nothing fits; 7 + 3 + 2 and 6 + 4 + 2 are whole.
    lengths = array([2, 3, 7, 4, 2, 6])
    assert [sorted(lengths[members].tolist()) for members in lists(exact_fill(lengths, 12))] == [[2, 3, 7], [2, 4, 6]]
    assert (len(best_fit_decreasing(lengths, 12)), len(plan_chunks(lengths, 12))) == (3, 2)


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_has_fewer_chunks_than_the_bound(seed):
    draw = random.Random(seed)
    chunk = draw.choice([10, 20, 50])
    lengths = [draw.randint(draw.choice([1, chunk // 3]), chunk) for _ in range(draw.randrange(1, 10))]
    bound = fewest_chunks(array(lengths), chunk)
    assert -(-sum(lengths) // chunk) <= bound <= fewest_of_all(lengths, chunk)


def test_documents_over_half_a_chunk_need_one_each():
    # 9 x 6 tokens are 54, which 6 chunks of 10 would hold.
    assert fewest_chunks(array([6] * 9), 10) == 9
    assert fewest_chunks(array([6, 6, 4, 5, 5]), 10) == 3
    assert fewest_chunks(array([7, 7, 4, 4]), 10) == 3


def test_few_short_documents_are_packed_to_the_last_thousandth():
    draw = random.Random(0)
    lengths = array([min(8192, max(8, round(draw.lognormvariate(7.58, 0.7)))) for _ in range(20_000)])
    bound = -(-int(lengths.sum()) // 8192)
    assert bound / len(best_fit_decreasing(lengths, 8192)) < 0.999 <= bound / len(plan_chunks(lengths, 8192))


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("seed", range(10))
def test_the_same_lengths_give_the_same_plan(seed, planner):
    lengths, chunk = lengths_of(seed)
    assert lists(planner(lengths, chunk)) == lists(planner(lengths.copy(), chunk))


@pytest.mark.parametrize("planner", [best_fit_decreasing, plan_chunks])
def test_a_document_longer_than_a_chunk_is_refused(planner):
    with pytest.raises(ValueError, match="document 1 has 11 tokens, more than the chunk's 10"):
        planner(array([3, 11]), 10)


@pytest.mark.parametrize("seed", range(10))
def test_reordered_chunks_are_the_same_chunks(seed):
    plan = best_fit_decreasing(*lengths_of(seed))
    order = np.random.default_rng(seed).permutation(len(plan))
    assert lists(plan.reordered(order)) == [lists(plan)[place] for place in order]


def streamed(lengths, chunk: int) -> tuple[list[list[int]], list[list[int]]]:
    """The chunks closed on the way, and those open at the end."""
    online = OnlineBestFit(chunk)
    closed = [members for index, length in enumerate(lengths) if (members := online.add(index, length))]
    return closed, online.rest()


@pytest.mark.parametrize("seed", range(60))
def test_in_one_pass_too_every_document_once_and_no_chunk_too_full(seed):
    lengths, chunk = lengths_of(seed)
    closed, rest = streamed(lengths.tolist(), chunk)
    assert sorted(index for members in closed + rest for index in members) == list(range(len(lengths)))
    assert all(members and lengths[members].sum() <= chunk for members in closed + rest)
    assert len(rest) <= OPEN_CHUNKS


def test_in_one_pass_the_tightest_open_chunk_is_chosen_and_the_fullest_closed():
    assert streamed([6, 5, 4, 5], 10) == ([], [[0, 2], [1, 3]])
    closed, rest = streamed([9, *[6] * OPEN_CHUNKS, 4], 10)
    assert closed == [[0]]
    assert rest[0] == [1, OPEN_CHUNKS + 1]


def test_one_pass_fills_nearly_as_well():
    draw = random.Random(0)
    lengths = [min(8192, max(8, round(draw.lognormvariate(5.45, 0.9)))) for _ in range(20_000)]
    closed, _ = streamed(lengths, 8192)
    assert sum(lengths[index] for members in closed for index in members) > 0.998 * 8192 * len(closed)
