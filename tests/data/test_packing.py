import random

import pytest

from med42.data.packing import best_fit_decreasing


def lengths_of(seed: int) -> tuple[list[int], int]:
    """Random lengths in a chunk of random size, from all short to all long."""
    draw = random.Random(seed)
    chunk = draw.choice([1, 2, 7, 64, 256, 8192])
    most = draw.choice([chunk, max(1, chunk // 2), max(1, chunk // 10)])
    return [draw.randint(1, most) for _ in range(draw.randrange(0, 300))], chunk


@pytest.mark.parametrize("seed", range(60))
def test_every_document_once_and_no_chunk_too_full(seed):
    lengths, chunk = lengths_of(seed)
    bins = best_fit_decreasing(lengths, chunk)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(members and sum(lengths[index] for index in members) <= chunk for members in bins)


@pytest.mark.parametrize("seed", range(60))
def test_a_chunk_is_opened_only_for_what_fits_nowhere(seed):
    lengths, chunk = lengths_of(seed)
    bins = best_fit_decreasing(lengths, chunk)
    full = [sum(lengths[index] for index in members) for members in bins]
    assert all(full[earlier] + lengths[bins[later][0]] > chunk for later in range(len(bins)) for earlier in range(later))
    # So that all chunks but the last are fuller than the chunk less the longest document.
    assert len(bins) <= 1 + sum(lengths) / max(1, chunk - max(lengths, default=0) + 1)


@pytest.mark.parametrize(("lengths", "chunk"), [
    ([5] * 20, 10), ([1] * 100, 8), ([7, 3] * 15, 10), ([10] * 5, 10), ([6, 4, 5, 5, 9, 1, 8, 2, 7, 3], 10), (list(range(1, 65)), 65),
    ([1] * 7, 8), ([], 8),
])
def test_easy_sets_reach_the_bound(lengths, chunk):
    assert len(best_fit_decreasing(lengths, chunk)) == -(-sum(lengths) // chunk)


@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_whole_chunks_fit_together_again_but_for_few(seed):
    draw = random.Random(seed)
    lengths = []
    for _ in range(50):
        cut = draw.randint(1, 255)
        lengths += [cut, 256 - cut]
    draw.shuffle(lengths)
    assert len(best_fit_decreasing(lengths, 256)) == 50


def test_the_tightest_chunk_is_chosen():
    # 6, then 5; the 4 goes beside the 6, where it leaves nothing, and not beside the 5.
    assert best_fit_decreasing([6, 5, 4], 10) == [[0, 2], [1]]


@pytest.mark.parametrize("seed", range(10))
def test_the_same_lengths_give_the_same_plan(seed):
    lengths, chunk = lengths_of(seed)
    assert best_fit_decreasing(lengths, chunk) == best_fit_decreasing(tuple(lengths), chunk)


def test_a_document_longer_than_a_chunk_is_refused():
    with pytest.raises(ValueError, match="document 1 has 11 tokens, more than the chunk's 10"):
        best_fit_decreasing([3, 11], 10)
