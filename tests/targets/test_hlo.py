"""Reading programs: turns of loops, products, traffic, collectives, from XLA's text."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnn.targets import collectives, costs, hlo

COMPILATION = "full"


def _program(function, *shapes):
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.parse(jax.jit(function).lower(*types).compile().as_text())


def _flops(program):
    return sum(sum(cost.flops.values()) for cost in costs.costs(program))


def test_a_product_in_nested_loops_counts_with_their_turns():
    def loops(w, x):
        def inner(carry, y):
            return jnp.tanh(lax.fori_loop(0, 7, lambda i, c: jnp.sin(c @ w), carry)) + y, None

        return lax.scan(inner, x, jnp.stack([x] * 3))[0] @ w

    program = _program(loops, (64, 64), (32, 64))
    assert _flops(program) == (3 * 7 + 1) * 2 * 32 * 64 * 64
    assert not program.unknown_loops


def test_a_loop_that_hangs_on_data_counts_once_and_is_named():
    program = _program(lambda w, x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x), (64, 64), (32, 64))
    assert _flops(program) == 2 * 32 * 64 * 64
    assert len(program.unknown_loops) == 1


# What the TPU compiler writes: no count of turns, constants through tuples, copies and fusions.
LOOP = """HloModule jit_f, is_scheduled=true

%fused (p: s32[], q: s32[]) -> s32[] {
  %p = s32[]{:T(128)} parameter(0)
  %q = s32[]{:T(128)} parameter(1)
  ROOT %sum = s32[]{:T(128)} add(%p, %q)
}

%body (state: (s32[], f32[8,128], s32[], s32[])) -> (s32[], f32[8,128], s32[], s32[]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%state), index=1
  %step = s32[]{:T(128)} get-tuple-element(%state), index=2
  %end = s32[]{:T(128)} get-tuple-element(%state), index=3
  %tanh = f32[8,128]{1,0:T(8,128)S(1)} tanh(%x), metadata={op_name="jit(f)/while/body/tanh"}, backend_config={"window_config":{"estimated_cycles":"30"}}
  %next = s32[]{:T(128)} fusion(%i, %step), kind=kLoop, calls=%fused
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, /*index=3*/s32[]{:T(128)}) tuple(%next, %tanh, %step, /*index=3*/%end)
}

%condition (state.1: (s32[], f32[8,128], s32[], s32[])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %end.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=3
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end.1), direction=DIRECTION
}

ENTRY %main (x.1: f32[8,128]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %start = s32[]{:T(128)} constant(START)
  %begin = s32[]{:T(128)} copy(%start)
  %two = s32[]{:T(128)} constant(STEP)
  %ten = s32[]{:T(128)} constant(10)
  %first = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, s32[]{:T(128)}) tuple(%begin, %copy-done, %two, %ten)
  %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, s32[]{:T(128)}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%while), index=1
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("start", "step", "direction"),
    [(0, 1, "LT"), (1, 2, "LT"), (0, 5, "LE"), (30, -4, "GT"), (30, -5, "GE"), (10, 1, "LT")],
)
def test_turns_are_those_of_python(start, step, direction):
    text = LOOP.replace("START", str(start)).replace("STEP", str(step)).replace("DIRECTION", direction)
    end = 10 + {"LE": 1, "GE": -1}.get(direction, 0)
    program = hlo.parse(text)
    found = costs.costs(program)
    turns = len(range(start, end, step))
    tanh = [cost for cost in found if cost.opcode == "tanh"]
    assert [cost.cycles for cost in tanh] == ([30 * turns] if turns else [])
    assert not program.unknown_loops
    # The copy reads the large memory, and writes the small one; the loop stays in the small one.
    assert [(cost.bytes, cost.hbm) for cost in found if cost.opcode == "copy-start"] == [(8192, 4096)]
    assert all(cost.hbm == 0 for cost in tanh)
    assert [cost.opcode for cost in found if costs.is_beside(cost)][:1] == ["copy-start"]


def _taps(size, kernel, stride, padding, gap, spread):
    """By brute force: positions of the kernel times taps that meet an element of the image."""
    places = [None] * padding[0] + [p if p % spread == 0 else None for p in range((size - 1) * spread + 1)]
    places += [None] * padding[1]
    reach = gap * (kernel - 1) + 1
    starts = range(0, len(places) - reach + 1, stride)
    return sum(places[start + gap * tap] is not None for start in starts for tap in range(kernel)), len(starts)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "gap", "spread"),
    [
        (9, 3, 1, (1, 1), 1, 1),
        (9, 3, 2, (0, 2), 2, 1),
        (7, 4, 1, (3, 1), 1, 2),
        (6, 2, 3, (2, 2), 2, 3),
        (5, 1, 1, (0, 0), 1, 1),
    ],
)
def test_a_convolution_counts_the_taps_that_lie_on_the_image(size, kernel, stride, padding, gap, spread):
    taps, places = _taps(size, kernel, stride, padding, gap, spread)
    window = f"size={kernel}x1 stride={stride}x1 pad={padding[0]}_{padding[1]}x0_0"
    window += f" lhs_dilate={spread}x1 rhs_dilate={gap}x1"
    text = f"""ENTRY %main (x: f32[2,4,{size},5], w: f32[6,2,{kernel},1]) -> f32[2,6,{places},5] {{
  %x = f32[2,4,{size},5]{{3,2,1,0}} parameter(0)
  %w = f32[6,2,{kernel},1]{{3,2,1,0}} parameter(1)
  ROOT %y = f32[2,6,{places},5]{{3,2,1,0}} convolution(%x, %w), window={{{window}}}, dim_labels=bf01_oi01->bf01, feature_group_count=2, operand_precision={{highest,highest}}
}}
"""  # noqa: E501
    (cost,) = costs.costs(hlo.parse(text))
    assert cost.flops == {"f32 highest": 2 * 2 * 6 * 2 * 5 * taps}


def test_libraries_products_and_convolutions_count():
    text = """ENTRY %main (a: bf16[4,64,32], b: bf16[4,64,16], x: f32[2,8,9,9], w: f32[16,8,3,3]) -> f32[2,16,9,9] {
  %a = bf16[4,64,32]{2,1,0} parameter(0)
  %b = bf16[4,64,16]{2,1,0} parameter(1)
  %x = f32[2,8,9,9]{3,2,1,0} parameter(2)
  %w = f32[16,8,3,3]{3,2,1,0} parameter(3)
  %gemm = (bf16[4,32,16]{2,1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"]}}}
  ROOT %y = (f32[2,16,9,9]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn$convForward"
}
"""  # noqa: E501
    gemm, convolution = costs.costs(hlo.parse(text))
    assert gemm.flops == {"bf16": 2 * 4 * 32 * 16 * 64}
    assert convolution.flops == {"f32": 2 * 2 * 16 * 8 * 25 * 25}
    assert costs.custom_calls(hlo.parse(text)) == {"__cublas$gemm": 1, "__cudnn$convForward": 1}


def test_an_update_in_place_counts_the_update_and_a_slice_the_slice():
    def update(table, row):
        return lax.fori_loop(
            0, 5, lambda i, t: lax.dynamic_update_slice(t, row + lax.dynamic_slice(t, (i, 0), (1, 64)), (i, 0)), table
        )

    found = costs.costs(_program(update, (4096, 64), (1, 64)))
    loops = [cost for cost in found if cost.times == 5]
    assert loops and sum(cost.bytes for cost in loops) < 5 * 20 * 64 * 4  # a whole table would be 5 * 2**20 bytes


class _Mesh:
    def __init__(self, **sizes):
        self.shape, self.axis_names = sizes, tuple(sizes)


MESH = _Mesh(data=2, fsdp=2, tp=2)
GROUPS = {
    "replica_groups=[4,2]<=[8]": "tp",
    "replica_groups=[4,2]<=[4,2]T(1,0)": "fsdp",
    "replica_groups={{0,3},{1,2},{4,7},{5,6}}": "?",  # of no axis of this mesh
    "replica_groups=[4,2]<=[2,2,2]T(0,2,1)": "fsdp",
    "replica_groups=[2,4]<=[4,2]T(1,0)": "data, fsdp",
    "replica_groups=[1,8]<=[8]": "data, fsdp, tp",
    "replica_groups={{0,1},{2,3},{4,5},{6,7}}": "tp",
    "replica_groups={{0,4},{1,5},{2,6},{3,7}}": "data",
    "replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_1'}": "fsdp",
    "replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}": "fsdp",
    "replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}": "data",
}


@pytest.mark.parametrize("groups", GROUPS)
def test_collectives_go_along_an_axis(groups):
    text = f"""ENTRY %main (x: bf16[16,128]) -> bf16[32,128] {{
  %x = bf16[16,128]{{1,0}} parameter(0)
  ROOT %y = bf16[32,128]{{1,0}} all-gather(%x), channel_id=3, {groups}, dimensions={{0}}, metadata={{op_name="jit(step)/Net/fc"}}
}}
"""
    (found,) = collectives.collectives(hlo.parse(text), MESH)
    assert (found.kind, found.axis, found.dtype, found.op_name) == (
        "all-gather",
        GROUPS[groups],
        "bf16",
        "jit(step)/Net/fc",
    )
    assert found.bytes == 16 * 128 * 2 * found.chips


def test_an_exchange_in_parts_counts_once_a_fused_scatter_as_one_and_groups_of_one_do_not():
    text = """%all-reduce-scatter.1 (p: f32[64,128]) -> f32[32,128] {
  %p = f32[64,128]{1,0} parameter(0)
  %sum = f32[64,128]{1,0} all-reduce(%p), channel_id=7, replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %part = f32[32,128]{1,0} slice(%sum), slice={[0:32], [0:128]}
}

ENTRY %main (x: f32[64,128]) -> f32[32,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %a = f32[64,128]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
  %b = f32[64,128]{1,0} all-reduce(%a), channel_id=2, replica_groups=[8,1]<=[8], to_apply=%add
  %c = f32[32,128]{1,0} all-to-all(%b), channel_id=3, replica_groups=[4,2]<=[8]
  %d = f32[32,128]{1,0} all-to-all(%b), channel_id=3, replica_groups=[4,2]<=[8]
  ROOT %y = f32[32,128]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    found = collectives.collectives(hlo.parse(text), MESH)
    assert {(one.kind, one.axis, one.count, one.bytes, one.sent) for one in found} == {
        ("collective-permute", "data", 1, 32768, 32768),
        ("all-to-all", "tp", 1, 32768, 16384),
        ("reduce-scatter", "tp", 1, 32768, 16384),
    }


def test_an_exchange_beside_a_loop_counts_as_often_as_it_begins():
    """A TPU overlaps a gather with a loop of 64 turns: its parts stand in the loop's body, under the channel of its beginning."""
    gather = "all-gather(%p), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}"
    turns = 'backend_config={"known_trip_count":{"n":"64"}}'
    part = f"""(p: bf16[16,128]) -> bf16[128,128] {{
  %p = bf16[16,128]{{1,0}} parameter(0)
  ROOT %all = bf16[128,128]{{1,0}} {gather}
}}
"""
    text = f"""%begin {part}
%inside {part}
%body (s: (s32[], bf16[16,128])) -> (s32[], bf16[16,128]) {{
  %s = (s32[], bf16[16,128]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[16,128]{{1,0}} get-tuple-element(%s), index=1
  %on = bf16[128,128]{{1,0}} fusion(%x), kind=kCustom, calls=%inside
  ROOT %next = (s32[], bf16[16,128]) tuple(%i, %x)
}}

%condition (s: (s32[], bf16[16,128])) -> pred[] {{
  %s = (s32[], bf16[16,128]) parameter(0)
  ROOT %more = pred[] constant(true)
}}

ENTRY %main (x: bf16[16,128]) -> bf16[128,128] {{
  %x = bf16[16,128]{{1,0}} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[16,128]) tuple(%zero, %x)
  %loop = (s32[], bf16[16,128]) while(%start), condition=%condition, body=%body, {turns}
  ROOT %y = bf16[128,128]{{1,0}} fusion(%x), kind=kCustom, calls=%begin
}}
"""
    (found,) = collectives.collectives(hlo.parse(text), MESH)
    assert (found.kind, found.count, found.bytes) == ("all-gather", 1, 128 * 128 * 2)


def test_collectives_of_shard_map_share_a_channel():
    """Two weights' gradients, each scattered over 8 devices in two steps, along parts of an axis: four exchanges."""
    rows = []
    for number, name in enumerate(("up", "down")):
        for step, groups in enumerate(("{{0,1},{2,3},{4,5},{6,7}}", "{{0,2,4,6},{1,3,5,7}}")):
            operand = f"%r{number}0" if step else "%x"
            before, after = (128, 64) if not step else (64, 16)
            rows.append(
                f"  {'ROOT ' * (number and step)}%r{number}{step} = bf16[{after},128]{{1,0}} reduce-scatter({operand}), "
                f'channel_id=1, replica_groups={groups}, dimensions={{0}}, to_apply=%add, metadata={{op_name="{name}"}}'
            )
    text = "ENTRY %main (x: bf16[128,128]) -> bf16[16,128] {\n  %x = bf16[128,128]{1,0} parameter(0)\n"
    found = collectives.collectives(hlo.parse(text + "\n".join(rows) + "\n}\n"), _Mesh(fsdp=8))
    assert {(one.kind, one.chips, one.count) for one in found} == {("reduce-scatter", 2, 2), ("reduce-scatter", 4, 2)}
    assert sum(one.bytes for one in found) == 2 * (128 + 64) * 128 * 2 and {one.axis for one in found} == {"fsdp"}


def test_axes_are_those_of_numpy():
    """Groups along any axes of a mesh, as the compiler may write them, are told apart."""
    numbers = np.arange(8).reshape(2, 2, 2)
    for count in (1, 2, 3):
        for axes in itertools.combinations(range(3), count):
            rows = np.moveaxis(numbers, axes, range(-count, 0)).reshape(-1, 2**count)
            groups = ",".join("{" + ",".join(map(str, row)) + "}" for row in rows)
            text = f"""ENTRY %m (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %y = f32[8]{{0}} all-reduce(%x), replica_groups={{{groups}}}
}}
"""
            (found,) = collectives.collectives(hlo.parse(text), MESH)
            assert found.axis == ", ".join(MESH.axis_names[axis] for axis in axes)
