"""How a global batch is shared out among passes and ranks."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.errors import InputError
from inoc_ray.train.layout import Layout, accumulation_steps


def test_a_batch_that_cannot_be_divided_shows_the_arithmetic():
    with pytest.raises(InputError, match=r"16 is not a multiple of .* = 3 × 2 = 6"):
        accumulation_steps(16, micro_batch_size=3, world_size=2)


@given(st.data())
@pytest.mark.parametrize("packed", [True, False])
def test_by_rows_every_rank_has_as_many_rows_in_as_many_passes(packed, data):
    world, micro, passes = (data.draw(st.integers(1, 4)) for _ in range(3))
    size = world * micro * passes
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=size, max_size=size))
    got = Layout(packed=packed, world_size=world, rows=micro).passes(range(size), lengths)
    assert len(got) == passes
    assert all(len(ranks) == world and all(len(rows) == micro for rows in ranks) for ranks in got)
    assert sorted(row for ranks in got for rows in ranks for row in rows) == list(range(size))


@given(st.data())
@pytest.mark.parametrize("packed", [True, False])
def test_by_tokens_every_row_is_in_one_pass_that_holds_it_and_the_ranks_have_as_many(packed, data):
    world, tokens = data.draw(st.integers(1, 5)), data.draw(st.integers(20, 90))
    lengths = data.draw(st.lists(st.integers(1, tokens), min_size=1, max_size=40))
    batch = data.draw(st.permutations(range(len(lengths))))
    layout = Layout(packed=packed, world_size=world, rows=1, tokens=tokens)
    got = layout.passes(batch, lengths)
    assert got == layout.passes(batch, lengths)
    assert all(len(ranks) == world for ranks in got)
    assert sorted(row for ranks in got for rows in ranks for row in rows) == list(range(len(lengths)))
    assert all(layout.positions(rows, lengths) <= tokens for ranks in got for rows in ranks)
    # No pass is of empty bins alone.
    assert all(any(rows for rows in ranks) for ranks in got)


def test_packed_rows_are_spread_evenly_over_as_few_bins_as_best_fit_needs():
    lengths = [900, 800, 700, 300, 200, 100]
    layout = Layout(packed=True, world_size=1, rows=1, tokens=1000)
    assert [sum(lengths[row] for row in ranks[0]) for ranks in layout.passes(range(6), lengths)] == [1000, 1000, 1000]
    layout = Layout(packed=True, world_size=2, rows=1, tokens=2048)
    [ranks] = layout.passes(range(6), lengths)
    assert [sum(lengths[row] for row in rows) for rows in ranks] == [1500, 1500]


def test_padded_rows_of_like_length_share_a_pass():
    lengths = [10, 100, 11, 90, 12, 95]
    layout = Layout(packed=False, world_size=1, rows=1, tokens=300)
    assert layout.passes(range(6), lengths) == [[[0, 2, 4]], [[3, 5, 1]]]


def test_a_rank_without_a_row_takes_an_empty_pass():
    for packed in (True, False):
        layout = Layout(packed=packed, world_size=4, rows=1, tokens=50)
        [ranks] = layout.passes([0, 1], [30, 40])
        assert sorted(map(len, ranks)) == [0, 0, 1, 1]
        assert layout.positions([], [30, 40]) == 1


def test_a_row_that_is_longer_than_a_pass_is_refused_with_its_number():
    for packed in (True, False):
        with pytest.raises(InputError, match=r"row 2 has 60 tokens, but resources.micro_batch_tokens is 50"):
            Layout(packed=packed, world_size=1, rows=1, tokens=50).passes([0, 1, 2], [30, 60, 50])


def test_lognormal_lengths_fill_bins_of_2048_to_97_percent_and_blocks_to_a_good_part():
    import random

    draw = random.Random(0)
    lengths = [min(2048, max(8, int(draw.lognormvariate(5, 0.7)))) for _ in range(512)]
    for world in (1, 2, 4):
        layout = Layout(packed=True, world_size=world, rows=1, tokens=2048)
        bins = [rows for ranks in layout.passes(range(512), lengths) for rows in ranks]
        assert sum(lengths) / (2048 * len(bins)) >= 0.97
        layout = Layout(packed=False, world_size=world, rows=1, tokens=2048)
        positions = sum(
            layout.positions(rows, lengths) for ranks in layout.passes(range(512), lengths) for rows in ranks
        )
        assert sum(lengths) / positions >= 0.9


@pytest.mark.skipif("INOC_RAY_ROWS" not in os.environ, reason="INOC_RAY_ROWS names no JSONL files of published rows")
def test_published_rows_fill_bins_of_2048_to_97_percent():
    """INOC_RAY_ROWS: JSONL files with a colon between; tokens are those of the miniature's tokenizer."""
    from inoc_ray.data.chat import read_jsonl
    from inoc_ray.data.tokenize import load_tokenizer, render
    from inoc_ray.miniature import weights_path
    from inoc_ray.models.encoding import encode_texts
    from inoc_ray.train.batches import global_batches

    tokenizer = load_tokenizer(str(weights_path()))
    for path in os.environ["INOC_RAY_ROWS"].split(":"):
        texts = [render(tokenizer, row.messages, False) for row in read_jsonl(Path(path))[:2000]]
        lengths = [n for n in (len(e.ids) for e in encode_texts(tokenizer, texts)) if n <= 2048]
        for world in (1, 2):
            layout = Layout(packed=True, world_size=world, rows=1, tokens=2048)
            tokens = computed = 0
            for batch in global_batches(len(lengths), 16, 20, seed=0):
                tokens += sum(lengths[row] for row in batch)
                passes = layout.passes(batch, lengths)
                computed += sum(layout.positions(rows, lengths) for ranks in passes for rows in ranks)
            full = sum(lengths) / (2048 * world * len(layout.passes(range(len(lengths)), lengths)))
            print(
                f"{path}, {world} ranks: {tokens / computed:.4f} of batches of 16 real; bins of all rows {full:.4f} full"
            )
            assert tokens / computed >= 0.97
            assert full >= 0.97
