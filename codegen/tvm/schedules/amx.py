"""Products of bf16 on the tiles of Intel's AMX units, for targets that have them.

A tile register holds 16 rows of 64 bytes: 16 pairs of bf16 or 16 sums in f32. A block of 32 x 32
sums stays in four of them over the whole sum, while two tiles of rows and two of columns pass by:
16 pairs of terms a step. Rows are packed to ``[row][pair]`` and each panel of columns to
``[pair][column]``, both with zeros up to whole tiles, so that every block is a whole one; the
block's sums go through memory to the epilogue.

A process must ask Linux once before it touches the tiles, and each thread must configure them;
both are done where a task begins, and its tiles are released where it ends, so that the thread's
state is small again when it is not computing.
"""

from __future__ import annotations

import math

import tvm
from tvm import tirx

from .. import emit
from ..bfloat import PAIR
from ..emit import Buffer, Expr, Index, Stmt
from .panels import Stripe, pack_panel
from .product import Place, Product
from .tile import tasks_for, valid_lanes

BLOCK = 32  # rows and columns of sums
_STEP = 16  # pairs of terms
_FEW = 8  # rows below which most of a tile would be zeros
_BEGIN, _END, _MULTIPLY = "hornfels_amx_begin", "hornfels_amx_end", "hornfels_amx_block"


def fits(product: Product) -> bool:
    """Whether the target has tiles, and the product fills them."""
    able = {"amx-tile", "amx-bf16"} <= product.machine.features and product.lanes == 16
    return able and product.paired and product.rows >= _FEW and product.columns >= _STEP


def amx(product: Product) -> Stmt:
    """Emit a product of pairs block by block; tasks take batches or panels of columns."""
    batches = math.prod(product.batch)
    room = (batches, _whole(product.rows, BLOCK), _whole(product.terms, _STEP))
    stripe = Stripe(product, 0, product.columns, BLOCK // product.lanes, False)
    split_batch = batches >= stripe.panels
    items = batches if split_batch else stripe.panels
    tasks = min(tasks_for(product.work, product.machine), items)

    def body(rows: Buffer, packed: Buffer, sums: Buffer) -> Stmt:
        def task(number: Index) -> Stmt:
            part = emit.split_range(items, tasks, number)
            batch, panels = (part, (0, stripe.panels)) if split_batch else ((0, batches), part)

            def one(flat: Index) -> Stmt:
                return emit.serial(
                    panels[1],
                    lambda panel: _panel(stripe, flat, panel, number, (rows, packed, sums)),
                    "panel",
                    panels[0],
                )

            work = emit.serial(batch[1], one, "batch", batch[0])
            return emit.seq(_call(_BEGIN), work, _call(_END))

        return emit.seq(_pack_rows(product, rows), emit.parallel(tasks, task))

    def with_rows(rows: Buffer) -> Stmt:
        return emit.scratch(
            "packed",
            (tasks, room[2], BLOCK),
            PAIR,
            lambda packed: emit.scratch(
                "sums", (tasks, BLOCK, BLOCK), product.dtype, lambda sums: body(rows, packed, sums)
            ),
        )

    text = tvm.ir.StringImm(FUNCTIONS)
    whole = emit.scratch("row_pairs", room, PAIR, with_rows)
    return tirx.AttrStmt(tvm.ir.StringImm("amx"), "pragma_import_llvm", text, whole)


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _pack_rows(product: Product, rows: Buffer) -> Stmt:
    """Copy the left operand to ``rows[batch, row, pair]``, zeros after the last row and pair."""
    batches, height, width = emit.shape_of(rows)
    zero = emit.constant(0, PAIR)

    def line(flat: Index) -> Stmt:
        batch, row = emit.unflatten(flat, (batches, height))
        at = emit.unflatten(batch, product.batch)

        def put(k: Index, value: Expr) -> Stmt:
            return emit.store(rows, (batch, row, k), value)

        pairs = emit.seq(
            emit.strips(product.terms, product.lanes, lambda k: put(k, product.left(at, row, k))),
            emit.strips(
                width - product.terms, product.lanes, lambda k: put(product.terms + k, zero)
            ),
        )
        blank = emit.strips(width, product.lanes, lambda k: put(k, zero))
        return emit.when(emit.less(row, product.rows), pairs, blank)

    heavy = batches * height * width >= 1 << 18
    return (emit.parallel if heavy else emit.serial)(batches * height, line)


def _panel(
    stripe: Stripe, flat: Index, panel: Index, task: Index, memory: tuple[Buffer, Buffer, Buffer]
) -> Stmt:
    """Pack a panel of columns, then run down the rows."""
    product, (rows, packed, sums) = stripe.product, memory
    at = emit.unflatten(flat, product.batch)
    _, height, width = emit.shape_of(rows)
    zero = emit.constant(0, PAIR)
    rest = emit.nest(
        (width - product.terms, 2),
        lambda place: emit.vectorized(
            _STEP,
            lambda lane: emit.store(
                packed, (task, product.terms + place[0], place[1] * _STEP + lane), zero
            ),
        ),
    )

    def block(number: Index) -> Stmt:
        first = number * BLOCK
        multiply = _call(
            _MULTIPLY,
            tirx.address_of(rows[flat, first, 0]),
            tirx.IntImm("int64", 4 * width),
            tirx.address_of(packed[task, 0, 0]),
            tirx.address_of(sums[task, 0, 0]),
            tirx.IntImm("int64", width // _STEP),
        )
        return emit.seq(multiply, _finish(stripe, at, panel, first, task, sums))

    pack = pack_panel(stripe, at, panel, (0, product.terms), task, packed)
    return emit.seq(pack, rest, emit.serial(height // BLOCK, block, "block"))


def _finish(
    stripe: Stripe, at: Place, panel: Index, first: Index, task: Index, sums: Buffer
) -> Stmt:
    """Hand a block's sums to the epilogue."""
    product = stripe.product
    count = emit.minimum(BLOCK, product.rows - first)

    def write(valid: list[int]) -> Stmt:
        def row(i: Index) -> Stmt:
            def element(j: Index) -> Stmt:
                indices = (*at, first + i, stripe.column(panel) + j)
                return emit.store_all(product.epilogue(indices, sums[task, i, j]))

            return emit.strips(sum(valid), product.lanes, element)

        return emit.serial(count, row, "row")

    full, last = valid_lanes(product.columns, stripe.width, product.lanes)
    if full == last:
        return write(full)
    return emit.when(emit.equal(panel, stripe.panels - 1), write(last), write(full))


def _call(name: str, *arguments: Expr) -> Stmt:
    return tirx.Evaluate(tirx.call_extern("int32", name, *arguments))


# --- what TVM cannot say ---------------------------------------------------------------------

_PALETTE = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
"""The configuration: eight tiles of 16 rows of 64 bytes."""

_LITERAL = "".join(f"\\{byte:02x}" for byte in _PALETTE)

FUNCTIONS = f"""
@hornfels_amx_asked = linkonce_odr global i32 0
@hornfels_amx_tiles = linkonce_odr constant [64 x i8] c"{_LITERAL}"

declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)

; Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), for all threads of the process.
define linkonce_odr i32 @{_BEGIN}() alwaysinline {{
entry:
  %asked = load atomic i32, ptr @hornfels_amx_asked monotonic, align 4
  %done = icmp ne i32 %asked, 0
  br i1 %done, label %configure, label %ask
ask:
  %answer = call i64 asm sideeffect "syscall",
    "={{rax}},{{rax}},{{rdi}},{{rsi}},~{{rcx}},~{{r11}},~{{memory}}"(i64 158, i64 4131, i64 18)
  store atomic i32 1, ptr @hornfels_amx_asked monotonic, align 4
  br label %configure
configure:
  call void @llvm.x86.ldtilecfg(ptr @hornfels_amx_tiles)
  ret i32 0
}}

define linkonce_odr i32 @{_END}() alwaysinline {{
  call void @llvm.x86.tilerelease()
  ret i32 0
}}

define linkonce_odr i32 @{_MULTIPLY}(
    ptr %a, i64 %stride, ptr %b, ptr %c, i64 %steps) alwaysinline {{
entry:
  call void @llvm.x86.tilezero(i8 0)
  call void @llvm.x86.tilezero(i8 1)
  call void @llvm.x86.tilezero(i8 2)
  call void @llvm.x86.tilezero(i8 3)
  %down = mul i64 %stride, 16
  br label %step
step:
  %i = phi i64 [0, %entry], [%next, %step]
  %along = mul i64 %i, 64
  %a0 = getelementptr i8, ptr %a, i64 %along
  %a1 = getelementptr i8, ptr %a0, i64 %down
  %below = mul i64 %i, {_STEP * BLOCK * 4}
  %b0 = getelementptr i8, ptr %b, i64 %below
  %b1 = getelementptr i8, ptr %b0, i64 64
  call void @llvm.x86.tileloadd64(i8 4, ptr %a0, i64 %stride)
  call void @llvm.x86.tileloadd64(i8 6, ptr %b0, i64 {BLOCK * 4})
  call void @llvm.x86.tileloadd64(i8 7, ptr %b1, i64 {BLOCK * 4})
  call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 6)
  call void @llvm.x86.tdpbf16ps(i8 1, i8 4, i8 7)
  call void @llvm.x86.tileloadd64(i8 5, ptr %a1, i64 %stride)
  call void @llvm.x86.tdpbf16ps(i8 2, i8 5, i8 6)
  call void @llvm.x86.tdpbf16ps(i8 3, i8 5, i8 7)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %step, label %store
store:
  %c1 = getelementptr i8, ptr %c, i64 64
  %c2 = getelementptr i8, ptr %c, i64 {16 * BLOCK * 4}
  %c3 = getelementptr i8, ptr %c2, i64 64
  call void @llvm.x86.tilestored64(i8 0, ptr %c, i64 {BLOCK * 4})
  call void @llvm.x86.tilestored64(i8 1, ptr %c1, i64 {BLOCK * 4})
  call void @llvm.x86.tilestored64(i8 2, ptr %c2, i64 {BLOCK * 4})
  call void @llvm.x86.tilestored64(i8 3, ptr %c3, i64 {BLOCK * 4})
  ret i32 0
}}
"""
