"""The memory plan: no two live buffers share a byte, and memory that is free again is used again."""

from hypothesis import given
from hypothesis import strategies as st

from optgraph.plan.memory import ALIGNMENT, Lifetime, allocate

lifetimes = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 10)).map(lambda t: (t[0], t[1], t[1] + t[2])),
    max_size=40,
).map(lambda rows: [Lifetime(f"b{i}", size, first, last) for i, (size, first, last) in enumerate(rows)])


@given(lifetimes)
def test_no_two_live_buffers_overlap(buffers: list[Lifetime]) -> None:
    offsets, total = allocate(buffers)
    assert offsets.keys() == {b.name for b in buffers}
    for i, a in enumerate(buffers):
        assert offsets[a.name] % ALIGNMENT == 0
        assert offsets[a.name] >= 0 and offsets[a.name] + a.size <= total
        for b in buffers[i + 1 :]:
            if a.first <= b.last and b.first <= a.last and a.size and b.size:
                apart = offsets[a.name] + a.size <= offsets[b.name] or offsets[b.name] + b.size <= offsets[a.name]
                assert apart, (a, b, offsets)


@given(lifetimes)
def test_the_arena_is_no_larger_than_all_buffers(buffers: list[Lifetime]) -> None:
    _, total = allocate(buffers)
    assert total <= sum(-(-b.size // ALIGNMENT) * ALIGNMENT for b in buffers)


@given(lifetimes)
def test_each_buffer_is_at_the_lowest_offset_that_is_free(buffers: list[Lifetime]) -> None:
    offsets, _ = allocate(buffers)
    placed: list[Lifetime] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        size = -(-buffer.size // ALIGNMENT) * ALIGNMENT
        offset = 0
        for other in sorted(placed, key=lambda b: offsets[b.name]):
            if other.first <= buffer.last and buffer.first <= other.last and offsets[other.name] < offset + size:
                offset = max(offset, offsets[other.name] + -(-other.size // ALIGNMENT) * ALIGNMENT)
        assert offsets[buffer.name] == offset
        placed.append(buffer)


def test_a_chain_needs_two_buffers() -> None:
    chain = [Lifetime(f"b{i}", 1000, i, i + 1) for i in range(10)]
    assert allocate(chain)[1] == 2 * 1024


def test_a_gap_between_live_buffers_is_filled() -> None:
    buffers = [Lifetime("long", 3072, 0, 9), Lifetime("early", 2048, 0, 1), Lifetime("late", 1024, 2, 3)]
    offsets, total = allocate(buffers)
    assert (offsets["late"], total) == (3072, 5120)
