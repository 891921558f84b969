"""Compiled kernels broken on purpose: each fault must show as a wrong answer, or as a fault, in some schedule.

The kernel is a pointwise convolution of eleven steps through a ring of three stages, fetched by the copy engine, or by
threads, for wgmma (sm_90) or mma (sm_80). Or one whose warps are specialised: a separable one of three halos through
two places in shared memory, three chunks that stay there and nine steps through such a ring, and another whose programs
take several blocks; and a convolution of stride 2, of four halos through three places and six taps through two. Or one
whose blocks are all under way at once, of a quarter of the depth. Or a
convolution in int8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from optgraph.ahead.cubins import Cubin, TensorMap
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.base.errors import OptgraphError
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.tile import Box, Tile
from optgraph.kernels.pointwise import POINTWISE, sample
from optgraph.kernels.separable import SEPARABLE, specialised_samples
from optgraph.run.driver import Bound
from optgraph.tune.layers import Layer
from tests.emulator.compiler import Wanted, compile_all
from tests.emulator.faults import FaultError
from tests.emulator.machine import Machine
from tests.emulator.schedule import SCHEDULES, Schedule

Mutate = Callable[[Cubin], Cubin]


@dataclass(frozen=True)
class Setting:
    """A target, and a layer on it. early: it is launched a second time, to begin before the first ends."""

    target: Target
    layer: Layer
    early: bool = False

    def wanted(self) -> Wanted:
        """The kernel to compile."""
        return self.layer.dry(self.target).variant, self.target

    def cubin(self) -> Cubin:
        (found,) = compile_all([self.wanted()])
        return found

    def outcome(self, cubin: Cubin, schedule: Schedule) -> str:
        """'right', 'wrong', or the fault."""
        with targeting(self.target):
            operands = self.layer.operands(torch.device("cpu"))
            launch = operands.launch()
        machine = Machine(self.target, [cubin], schedule)
        machine.follow(launch)
        try:
            run = machine.bind(launch)
            assert isinstance(run, Bound)
            error = operands.error(run)
            if self.early:
                error = operands.error(run.early)
        except (FaultError, OptgraphError) as fault:
            return str(fault)
        return "right" if error <= self.layer.bound else "wrong"


def _pointwise(box: Box | None = None) -> Layer:
    tile = Tile(64, 64, 32, 4, 3, box=box)
    return Layer(POINTWISE, sample((1, 9, 9, 328), 72, tile=tile).typed("fp16"))


TMA = Setting(SM_90, _pointwise((1, 64, 1)))
GATHERED = Setting(SM_90, _pointwise())
CHAINED, CHAINED_TMA = replace(GATHERED, early=True), replace(TMA, early=True)
AMPERE = Setting(SM_80, _pointwise())
INT8 = Setting(
    SM_80,
    Layer(
        conv2d.CONV2D,
        conv2d.sample(
            (1, 5, 6, 48),
            32,
            Window((3, 3), pads=(1, 1, 1, 1)),
            integers=True,
            stored="int8",
            after=Epilogue(True, RELU, quants=(Quant(150.0, -9),)),
            tile=Tile(32, 32, 32, 4, 2),
        ),
    ),
)
_FIRST, _SECOND, *_ = specialised_samples()
SPECIALISED = Setting(SM_90, Layer(SEPARABLE, _FIRST.typed("fp16")), early=True)
BLOCKS = Setting(SM_90, Layer(SEPARABLE, _SECOND.typed("fp16")))
*_, _STRIDED = conv2d.specialised_samples()
HALO = Setting(SM_90, Layer(conv2d.CONV2D, _STRIDED.typed("fp16")), early=True)
HALO_INT8 = Setting(SM_90, Layer(conv2d.CONV2D, next(conv2d.specialised_integers())), early=True)

STREAMED = Setting(SM_90, Layer(conv2d.CONV2D, next(conv2d.streamed_samples()).typed("fp16")), early=True)


def _text(pattern: str, to: str, count: int = 0) -> Mutate:
    """Replaces in the PTX. Raises ValueError if the pattern is not there."""

    def mutate(cubin: Cubin) -> Cubin:
        text, found = re.subn(pattern, to, cubin.code.decode(), count=count)
        if not found:
            raise ValueError(f"no {pattern} in the compiled kernel")
        return replace(cubin, code=text.encode())

    return mutate


def _at(pattern: str, numbers: slice, to: str) -> Mutate:
    """Of the places in the PTX where the pattern is, those of these numbers."""

    def mutate(cubin: Cubin) -> Cubin:
        text = cubin.code.decode()
        found = list(re.finditer(pattern, text))[numbers]
        if not found:
            raise ValueError(f"not so many {pattern} in the compiled kernel")
        for place in reversed(found):
            text = text[: place.start()] + to + text[place.end() :]
        return replace(cubin, code=text.encode())

    return mutate


def _in_loop(pattern: str, to: str) -> Mutate:
    """The same between the head of the loop and the branch back to it."""

    def mutate(cubin: Cubin) -> Cubin:
        text = cubin.code.decode()
        head = re.search(r"^(\$L\w+):[^\n]*Loop Header", text, re.M)
        assert head
        end = re.compile(rf"bra \t?{re.escape(head[1])};").search(text, head.end())
        assert end
        part = replace(cubin, code=text[head.end() : end.start()].encode())
        changed = _text(pattern, to)(part).code.decode()
        return replace(cubin, code=(text[: head.end()] + changed + text[end.start() :]).encode())

    return mutate


def _first_parity(cubin: Cubin) -> Cubin:
    """The parity that the first wait waits for: what is given to its register before the loop."""
    found = re.search(r"try_wait\S+ complete, \[%r\d+\], (%r\d+);", cubin.code.decode())
    assert found
    return _text(rf"(mov\.b32 \t{found[1]}), %r\d+;", r"\1, 1;")(cubin)


def _swizzle(bits: int) -> Mutate:
    """Of the first tensor map."""

    def mutate(cubin: Cubin) -> Cubin:
        first, *others = cubin.parameters
        assert isinstance(first, TensorMap)
        assert first.swizzle != bits
        return replace(cubin, parameters=(replace(first, swizzle=bits), *others))

    return mutate


def _exchange(first: str, second: str, setting: Setting = AMPERE) -> Mutate:
    """Two parameters, by their paths."""

    def mutate(cubin: Cubin) -> Cubin:
        paths = [path for path, _ in setting.layer.dry(setting.target).variant.parameters]
        text = cubin.code.decode()
        start = text.index("{", text.index(".entry"))
        names = [f"{cubin.entry}_param_{paths.index(path)}" for path in (first, second)]
        swap = dict(zip(names, names[::-1], strict=True))
        body = re.sub(r"\w+_param_\d+", lambda name: swap.get(name[0], name[0]), text[start:])
        return replace(cubin, code=(text[:start] + body).encode())

    return mutate


def _last(cubin: Cubin) -> Cubin:
    """Waits when all is done."""
    return _text("ret;", "griddepcontrol.wait; ret;")(_text(_WAIT, "")(cubin))


def _write_first(cubin: Cubin) -> Cubin:
    """Clears an element of the output before the wait."""
    number = [path for path, _ in GATHERED.layer.dry(SM_90).variant.parameters].index("outs.0")
    clear = f"ld.param.b64 at, [{cubin.entry}_param_{number}]; st.global.b16 [at], 0;"
    return _text(_WAIT, f"{{ .reg .b64 at; {clear} }} griddepcontrol.wait;")(cubin)


def _fetch_out(cubin: Cubin) -> Cubin:
    """Has the output brought into L2 before the wait, and not the weight."""
    paths = [path for path, _ in TMA.layer.dry(SM_90).variant.parameters]
    before = cubin.parameters[: paths.index("outs.0")]
    number = sum(1 + 2 * len(kind.box) if isinstance(kind, TensorMap) else 1 for kind in before)
    fetch = r"@here cp\.async\.bulk\.prefetch\.L2\.global \[%rd\d+\][^;]*;"
    load = f"{{ .reg .b64 at; ld.param.b64 at, [{cubin.entry}_param_{number}];"
    return _text(fetch, rf"{load} @here cp.async.bulk.prefetch.L2.global [at], 16; }}", 1)(cubin)


_WAIT = r"griddepcontrol\.wait;"
_WAIT_PRODUCT = r"wgmma\.wait_group\.sync\.aligned \t?1;"
_RING = r"(setp\.gt\.s32 \t%p\d+, %r\d+), {last};(\s+selp\.b32 \t%r\d+, 0,)"
_SHORTER_3, _SHORTER_2 = _RING.format(last=2), _RING.format(last=1)
_WAIT_COPY = r"cp\.async\.wait_group \t2;"
_BARRIER = r"bar\.sync \t0;"

# In the order of the code: those who multiply, wait for chunks and stages, and free both; who make chunks, wait for
# halos and for a chunk's place, and free halos; who loads stages; who loads halos.
_TRY_WAIT, _ARRIVE = r"mbarrier\.try_wait\S+ complete, [^;]*;", r"@%p\d+ mbarrier\.arrive\.shared::cta\.b64 _, [^;]*;"
_FENCE, _OVER = r"fence\.proxy\.async\.shared::cta;", "mov.pred complete, 1;"
_OF_STREAMED = {
    "no wait for a block": _at(_TRY_WAIT, slice(0, 1), _OVER),
    "no wait for the products": _text(r"wgmma\.wait_group\.sync\.aligned \t?0;", ""),
    "fewer bytes are expected": _text(r"(expect_tx\S+ _, \[%r\d+\]), \d+;", r"\1, 4096;", 1),
    "no wait for the parts": _text(r"cp\.async\.wait_group \t?0;", ""),
    "no wait for earlier launches": _text(_WAIT, ""),
}
_OF_SPECIALISED = {
    "no wait for a chunk": _at(_TRY_WAIT, slice(0, 1), _OVER),
    "no wait for a stage": _at(_TRY_WAIT, slice(1, 2), _OVER),
    "no wait for a halo": _at(_TRY_WAIT, slice(2, 3), _OVER),
    "no wait for a free stage": _at(_TRY_WAIT, slice(4, 7), _OVER),
    "no wait for a free halo": _at(_TRY_WAIT, slice(7, None), _OVER),
    "a stage is free before it was read": _text(_WAIT_PRODUCT, ""),
    "no wait for the last product": _text(r"wgmma\.wait_group\.sync\.aligned \t?0;", ""),
    "no stage is ever free": _at(_ARRIVE, slice(0, 3, 2), ""),
    "no halo is ever free": _at(_ARRIVE, slice(4, 5), ""),
    "no chunk is ever there": _at(_ARRIVE, slice(5, 6), ""),
    "no fence before a chunk is there": _at(_FENCE, slice(1, 2), ""),
    "a chunk is there when one warp has stored": _at(r"bar\.sync \t2, 256;", slice(3, 4), ""),
    "a halo is free when one warp has read it": _at(r"bar\.sync \t2, 256;", slice(1, 2), ""),
    "a stage is free when one warp has read it": _at(r"bar\.sync \t0, 256;", slice(1, 2), ""),
    "fewer bytes of a stage are expected": _text(r"(expect_tx\S+ _, \[%r\d+\]), 16384;", r"\1, 8192;"),
    "fewer bytes of a halo are expected": _text(r"(expect_tx\S+ _, \[%r\d+\]), 20480;", r"\1, 16384;"),
    "halos are swizzled": _swizzle(3),
    "those who multiply do not wait for earlier launches": _at(_WAIT, slice(0, 1), ""),
    "those who load halos do not wait for earlier launches": _at(_WAIT, slice(1, 2), ""),
    "what lies off the map counts": _text(r"and\.b32 (%r\d+), (%r\d+), %r\d+;", r"mov.b32 \1, \2;"),
}
_OF_BLOCKS = {
    "no wait for a free place": _at(_TRY_WAIT, slice(3, 4), _OVER),
    "no place is ever free": _at(_ARRIVE, slice(3, 4), ""),
}
# Those who multiply wait for halos and stages, of even taps and of odd ones, and free those of the tap before. Then
# come those who load halos, of both kinds, and those who load stages.
_OF_HALO = {
    "no wait for a halo": _at(_TRY_WAIT, slice(0, 1), _OVER),
    "no wait for a halo of odd taps": _at(_TRY_WAIT, slice(3, 4), _OVER),
    "no wait for a stage": _at(_TRY_WAIT, slice(1, 2), _OVER),
    "no wait for a free halo": _at(_TRY_WAIT, slice(5, 7), _OVER),
    "no wait for a free stage": _at(_TRY_WAIT, slice(7, None), _OVER),
    "a stage is free before it was read": _text(_WAIT_PRODUCT, ""),
    "no wait for the last product": _text(r"wgmma\.wait_group\.sync\.aligned \t?0;", ""),
    "no stage is ever free": _at(_ARRIVE, slice(2, 4), ""),
    "no halo is ever free": _at(_ARRIVE, slice(4, 5), ""),
    "a stage is free when one warp has read it": _at(r"bar\.sync \t0, 256;", slice(4, 5), ""),
    "fewer bytes of a halo are expected": _text(r"(expect_tx\S+ _, \[%r\d+\]), 9216;", r"\1, 8192;"),
    "fewer bytes of a stage are expected": _text(r"(expect_tx\S+ _, \[%r\d+\]), 4096;", r"\1, 2048;"),
    "a swizzle of 128 bytes": _swizzle(3),
    "those who multiply do not wait for earlier launches": _at(_WAIT, slice(0, 1), ""),
    "those who load halos do not wait for earlier launches": _at(_WAIT, slice(1, 2), ""),
}

_ROUND = r"(add(?:\.rn)?\.f32 \t%\w+, )(%\w+)(, 0f4B400000;)"
_OF_INT8 = {
    "truncates": _text(_ROUND, r"{ .reg .f32 whole; cvt.rzi.f32.f32 whole, \2; \1whole\3 }"),
    "does not saturate": _text(r"cvt\.pack\S+ (%high, )(\S+, )(\S+, )0;", r"prmt.b32 \1\3\2 0x0040;"),
    "scale and bias exchanged": _exchange("end.scale", "end.bias", INT8),
    "the zero of the grid is another number": _exchange("end.last_zero", "kinds.across", INT8),
    "what lies outside has a zero of its own": _exchange("kinds.top", "kinds.bottom", INT8),
    "the weight by rows": _exchange("size.columns", "size.channels", INT8),
}

_OF_HALO_INT8 = {
    "no wait for a free stage": _at(_TRY_WAIT, slice(-1, None), _OVER),
    "no wait for the last product": _text(r"wgmma\.wait_group\.sync\.aligned \t?0;", ""),
    "sums begin with those of another kind": _exchange("kinds.top", "kinds.across", HALO_INT8),
    "scale and bias exchanged": _exchange("end.scale", "end.bias", HALO_INT8),
    "bytes change places once more": _text(r"(shfl\.sync\.bfly\.b32 \t%r\d+, %r\d+), 1,", r"\1, 2,"),
    "a swizzle of 128 bytes": _swizzle(3),
}

MUTATIONS: dict[str, tuple[Setting, Mutate]] = {
    "TMA: no wait for the copies": (TMA, _in_loop(r"mbarrier\.try_wait\S+ complete, [^;]*;", "mov.pred complete, 1;")),
    "TMA: the first parity is wrong": (TMA, _first_parity),
    "TMA: the parity does not change": (TMA, _in_loop(r"xor\.b32 \t(%r\d+), \1, %r\d+;", "")),
    "TMA: one stage fewer": (TMA, _in_loop(_SHORTER_3, r"\1, 1;\2")),
    "TMA: an mbarrier expects fewer bytes": (TMA, _in_loop(r"(expect_tx\S+ _, \[%r\d+\]), 8192;", r"\1, 4096;")),
    "TMA: no barrier in the loop": (TMA, _in_loop(_BARRIER, "")),
    "TMA: no swizzle": (TMA, _swizzle(0)),
    "TMA: a swizzle of 32 bytes": (TMA, _swizzle(1)),
    "TMA: B is not transposed": (TMA, _text(r"1, 1, 0, 1;", "1, 1, 0, 0;")),
    "wgmma: no wait in the loop": (TMA, _in_loop(_WAIT_PRODUCT, "")),
    "wgmma: no wait at the end": (TMA, _text(r"wgmma\.wait_group\.sync\.aligned \t?0;", "")),
    "gathered, wgmma: waits for a stage less": (
        GATHERED,
        _in_loop(_WAIT_COPY, "cp.async.wait_group 4;"),
    ),
    "gathered, wgmma: one stage fewer": (GATHERED, _in_loop(_SHORTER_3, r"\1, 1;\2")),
    "gathered, wgmma: no barrier in the loop": (GATHERED, _in_loop(_BARRIER, "")),
    "gathered, wgmma: no wait in the loop": (GATHERED, _in_loop(_WAIT_PRODUCT, "")),
    "chained: no wait for earlier launches": (CHAINED, _text(_WAIT, "")),
    "chained by TMA: no wait for earlier launches": (CHAINED_TMA, _text(_WAIT, "")),
    "chained: waits at the end": (CHAINED, _last),
    "chained by TMA: waits at the end": (CHAINED_TMA, _last),
    "chained: only the first warp waits": (
        CHAINED,
        _text(_WAIT, "{ .reg .pred first; setp.lt.s32 first, %tid.x, 32; @first griddepcontrol.wait; }"),
    ),
    "chained by TMA: fetches an activation before it waits": (CHAINED_TMA, _fetch_out),
    "chained: writes before it waits": (CHAINED, _write_first),
    **{f"specialised: {name}": (SPECIALISED, mutate) for name, mutate in _OF_SPECIALISED.items()},
    **{f"streamed: {name}": (STREAMED, mutate) for name, mutate in _OF_STREAMED.items()},
    **{f"blocks: {name}": (BLOCKS, mutate) for name, mutate in _OF_BLOCKS.items()},
    **{f"int8: {name}": (INT8, mutate) for name, mutate in _OF_INT8.items()},
    **{f"halo: {name}": (HALO, mutate) for name, mutate in _OF_HALO.items()},
    **{f"halo of int8: {name}": (HALO_INT8, mutate) for name, mutate in _OF_HALO_INT8.items()},
    "gathered, mma: no wait for the copies": (AMPERE, _in_loop(_WAIT_COPY, "")),
    "gathered, mma: waits for half a stage less": (
        AMPERE,
        _in_loop(_WAIT_COPY, "cp.async.wait_group 3;"),
    ),
    "gathered, mma: one stage fewer": (AMPERE, _in_loop(_SHORTER_2, r"\1, 0;\2")),
    "gathered, mma: no barrier in the loop": (AMPERE, _in_loop(_BARRIER, "")),
    "gathered, mma: ldmatrix does not transpose": (AMPERE, _text(r"m8n8\.x4\.trans", "m8n8.x4")),
    "gathered, mma: two pointers exchanged": (AMPERE, _exchange("x", "weight")),
    "gathered, mma: two sizes exchanged": (AMPERE, _exchange("size.3", "size.4")),
    "gathered, mma: two strides exchanged": (AMPERE, _exchange("strides.1", "strides.2")),
}


def outcomes(name: str) -> list[str]:
    """Of a mutated kernel in each of SCHEDULES."""
    setting, mutate = MUTATIONS[name]
    cubin = mutate(setting.cubin())
    return [setting.outcome(cubin, schedule) for schedule in SCHEDULES]
