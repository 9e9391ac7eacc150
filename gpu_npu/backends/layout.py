"""What lies on the device: every array and number that the kernels see, once.

The tables below make the C++ header `state.cuh` (struct State, struct Row, the constants), the NumPy dtypes that mirror
them, the allocations and (in memory.py) the estimates. Change a line here and both sides change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome.fields import COUNTERS, MAX_NEURONS, NEURON_FIELDS, POTENTIAL_OF_FORCED
from gpu_npu.connectome.plasticity import RESIDUE_BITS, TRACE_BITS

WORD_NEURONS = 32
"""Neurons in a word of a bit set."""
TILE_WORDS = 32
"""Words whose fired neurons are counted together, on the way to ascending ids."""
TILE_NEURONS = WORD_NEURONS * TILE_WORDS
BLOCK_ALIGNMENT = 16
"""Bytes: a row's block starts at a multiple of this; Row.offset counts in it."""
UPLOAD_SYNAPSES = 2**22
"""Synapses that travel in one transfer, unless one row has more: bounds the temporary memory of a load or a query."""
SCRATCH_BYTES = 2**26
"""Bytes that a compaction moves at a time, unless one row is longer."""
TAIL_KEY_BYTES = 8
"""Of scratch, for each slot of a row's unsorted tail in a compaction."""
STAGING_ITEMS = 4096
"""Items of each staging buffer (ids, potentials, forced ids) before anything is staged; they grow with what is."""
CONTROL = ("burst", "unread", "deadline", "late", "arrived")
"""u64 cells in which the device itself keeps where a run stands: number of the last burst; number of a burst whose fired
ids did not fit the ring, and may not be overwritten before the host has them; when the time of this launch is over, and
whether it is; arrivals at the grid barrier."""
RING_HEADER = 16
"""u32 words at the start of a ring: [0] bursts in it, [1] ids in it, [2] 1 if the ids of the last burst did not fit."""
RECORD = 16
"""u32 words about a burst in a ring: [0] fired neurons, [2 + 2 c] and the next the 64-bit counter c, after them the clock."""
QUEUE_HEADER = 16
"""u32 words before the ids of a fire queue: [0] how many ids, [QUEUE_TASKS] how many tasks, [2 + 2 c] and the next the
64-bit counter c, [QUEUE_EXPECTED] and the next the synapses that leave the fired neurons."""
QUEUE_TASKS, QUEUE_EXPECTED = 1, 2 + 2 * len(COUNTERS)
STRATEGIES = ("choose", "rows", "slices", "blocked", "owned")
"""Of propagation.cu: what State.strategy counts."""
HEAVY_ROW = 2048
"""A row of more synapses is cut into tasks of at most so many."""
RECALL_PERIOD = 32
"""Bursts after which a row is visited while its source is inside a window of a FeagiRule: half of what State.history holds."""
SETTLE_PERIOD = 2**15
"""Bursts after which what a window rule owes a silent synapse is paid, at the latest: 16 bits count it."""
PSP_EACH = 0xFFFFFFFF
"""Row.psp of a row whose synapses have a psp each; any other value is the psp of all of them."""
DELAY_EACH = 0
"""Row.delay of a row whose synapses have a delay each; any other value is the delay of all of them."""

FLAGS = {
    "FLAG_VALID": (1 << 0, "exists and is not deleted"),
    "FLAG_CREATED": (1 << 1, "exists or was deleted"),
    "FLAG_ACCUMULATES": (1 << 2, "mp_charge_accumulation"),
    "FLAG_POWER": (1 << 3, "is a power neuron"),
    "FLAG_NONUNIFORM": (1 << 4, "its area divides a source's psp among its synapses"),
    "FLAG_MP_DRIVEN": (1 << 5, "its area delivers the firing potential in place of the psp"),
    "FLAG_INJECTED": (1 << 6, "external potential waits in input[]; set and cleared inside a burst"),
    "FLAG_FORCED": (1 << 7, "is forced in this burst; set and cleared inside a burst"),
}
FLAG = {name.removeprefix("FLAG_").lower(): bit for name, (bit, _) in FLAGS.items()}

CONSTANTS = {
    "WORD_NEURONS": WORD_NEURONS,
    "TILE_WORDS": TILE_WORDS,
    "TILE_NEURONS": TILE_NEURONS,
    "BLOCK_ALIGNMENT": BLOCK_ALIGNMENT,
    "QUEUE_HEADER": QUEUE_HEADER,
    "QUEUE_TASKS": QUEUE_TASKS,
    "QUEUE_EXPECTED": QUEUE_EXPECTED,
    **{f"STRATEGY_{name.upper()}": i for i, name in enumerate(STRATEGIES)},
    "RING_HEADER": RING_HEADER,
    "RECORD": RECORD,
    **{f"CONTROL_{name.upper()}": i for i, name in enumerate(CONTROL)},
    "COUNTERS": len(COUNTERS),
    **{f"COUNTER_{name.upper()}": i for i, name in enumerate(COUNTERS)},
    "PSP_EACH": PSP_EACH,
    "DELAY_EACH": DELAY_EACH,
    "TRACE_BITS": TRACE_BITS,
    "RESIDUE_BITS": RESIDUE_BITS,
    "SETTLE_PERIOD": SETTLE_PERIOD,
    "RECALL_PERIOD": RECALL_PERIOD,
    "TARGET_MASK": MAX_NEURONS - 1,
    "SYNAPSE_REMOVED": MAX_NEURONS,
    "SYNAPSE_INHIBITORY": 2 * MAX_NEURONS,
    **{name: bit for name, (bit, _) in FLAGS.items()},
}

C_TYPES = {"u1": "u8", "u2": "u16", "u4": "u32", "u8": "u64", "i8": "i64", "f4": "float"}

ROW_FIELDS = (
    ("offset", "u8", "start of the block in the arena, in units of BLOCK_ALIGNMENT bytes"),
    ("length", "u4", "slots in use, removed synapses included"),
    ("sorted", "u4", "the first this many slots ascend by delay, then target (removed ones too); equal targets in order of age throughout"),
    ("capacity", "u4", "slots the block has room for"),
    ("valid", "u4", "synapses not removed: k of the semantics"),
    ("psp", "u4", "the one psp of all its synapses (bits of a float where psps are), or PSP_EACH"),
    ("columns", "u2", "u16 values that plasticity keeps for each slot, in as many columns"),
    ("delay", "u2", "the one delay of all its synapses, or DELAY_EACH"),
)
SPIKES_FIELDS = (
    ("last", "u4", "the last burst in which the neuron fired; 0: none"),
    ("before", "u4", "the one before it"),
    ("area", "u4", "index in plastic_areas; 0: no rule names its area"),
    ("seen", "u4", "bursts up to `last` that had fired in a window of kind 0, see windows"),
)
AREA_FIELDS = (
    ("expires", "u4", "is the source of a window rule: rows are visited when a window ends, too"),
    ("learns", "u4", "is the source of any rule"),
    ("paired", "u4", "is the target of a pair rule"),
    ("lowest", "u4", "synapses that leave it are in no rule if they end in a neuron below this id"),
    ("highest", "u4", "or above this one"),
)
WINDOW_FIELDS = (
    ("since", "u4", "bursts up to this one are silent"),
    ("acts", "u4", "the first burst in which weights change"),
    ("window", "u4", "how many bursts are looked at"),
)
TRACE_FIELDS = (
    ("since", "u4", "bursts up to this one are silent"),
    ("decay", "u4", "where d[0] = 1, d[1], ... of its time constant begin in decays, in units of 2^-20"),
    ("length", "u4", "from here on d is 0"),
    ("all", "u4", "0: the trace is that of the last spike alone; else 1 + the place of its values in traces"),
)
RULE_FIELDS = (
    ("pair", "u4", "0: window rule; 1: pair rule; where State.history is, FeagiRule"),
    ("column", "u4", "of a row: what the rule keeps for each synapse"),
    ("plus", "u4", "window: units of weight; pair: of 2^-16 of one"),
    ("minus", "u4", "likewise"),
    ("window", "u4", "window: index in windows"),
    ("source_trace", "u4", "pair: index in trace_kinds"),
    ("target_trace", "u4", "likewise"),
    ("multiplicative", "u4", "pair: steps in proportion to the distance from the bound"),
    ("low", "u4", "pair: bounds of a weight and half a weight more, in units of 2^-16"),
    ("high", "u4", "likewise"),
    ("up", "f4", "feagi: units of weight"),
    ("down", "f4", "likewise"),
    ("top", "f4", "feagi: the weight that `up` ends at"),
)


def _dtype(fields: tuple[tuple[str, str, str], ...]) -> np.dtype[np.void]:
    return np.dtype([(name, code) for name, code, _ in fields], align=True)


STRUCTS = {
    "Row": ROW_FIELDS,
    "Spikes": SPIKES_FIELDS,
    "PlasticArea": AREA_FIELDS,
    "Window": WINDOW_FIELDS,
    "Trace": TRACE_FIELDS,
    "Rule": RULE_FIELDS,
}
"""C name -> fields."""
DTYPES = {name: _dtype(fields) for name, fields in STRUCTS.items()}
ROW_DTYPE = DTYPES["Row"]


AXES = {
    "neuron": "an id of the network: its parameters, area, flags, row",
    "cell": "a neuron as it runs: its state, accumulators, bits, queues",
    "coordinate": "x, y, z",
    "slot": "bursts for which terms are summed at a time",
    "channel": "what a target tells apart: one sum of both signs",
    "second": "1 where two workers sum apart (strategy owned), else 0",
    "apart": "1 where the accumulator cannot count arrivals, else 0",
    "turn": "which fire queue: as many as the delay in bursts, one being filled, and more up to a power of two",
    "parity": "bursts of even and of odd number",
    "word": "of WORD_NEURONS bits",
    "tile": "of TILE_WORDS words",
    "queue_word": "header and ids of one queue, in u32",
    "task": "chunk of a heavy row",
    "ledger_slot": "burst that the ledger keeps",
    "control_cell": "CONTROL_*",
    "byte": "of the arena",
    "degenerating": "area whose psps fall",
    "late": "delay that some synapse has, where there are several",
    "area": "that rules name, and one for all others",
    "rule": "plasticity rule",
    "window_kind": "windows of rules that are alike count once",
    "more_windows": "all kinds but the first",
    "history": "1 where rules are FeagiRules, else 0",
    "trace_kind": "traces that are alike count once",
    "trace": "kinds of traces of all spikes",
    "decay": "an entry of a table of decay",
}
"""What arrays are counted along. Growth, estimates and copies work on axes alone."""


@dataclass(frozen=True)
class Array:
    """One device array: as many items as the product of its `axes`, the last one varying fastest."""

    name: str
    code: str
    axes: tuple[str, ...]
    group: str
    doc: str

    @property
    def dtype(self) -> np.dtype[np.void] | np.dtype[np.generic]:
        return DTYPES[self.code] if self.code in DTYPES else np.dtype(self.code)

    def size(self, lengths: Mapping[str, int]) -> int:
        """Items, where the axes have these lengths."""
        return math.prod(lengths[axis] for axis in self.axes)

    def moves(self, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[int, int, int]]:
        """(to, from, count) of the runs that go over to an array whose axes are as long or longer, item by item in place."""
        old, new = ([lengths[axis] for axis in self.axes] for lengths in (before, after))
        inner = max((i for i in range(len(old)) if old[i] != new[i]), default=0)  # what comes behind it stays together
        run, stride = math.prod(old[inner:]), math.prod(new[inner:])
        for i, index in enumerate(np.ndindex(*old[:inner])):
            at = 0
            for place, length in zip(index, new, strict=False):
                at = at * length + place
            yield at * stride, i * run, run


def _field_arrays() -> Iterator[Array]:
    for field in NEURON_FIELDS.values():
        if field.dtype is not np.bool_:  # the one boolean is a bit of flags[]
            axes = ("neuron",) if field.width == 1 else ("neuron", "coordinate")
            yield Array(field.name, np.dtype(field.dtype).str[1:], axes, "neurons", field.doc)


SUMS = ("slot", "channel", "cell")

ARRAYS: tuple[Array, ...] = (
    Array("flags", "u1", ("neuron",), "neurons", "FLAG_* bits"),
    *_field_arrays(),
    Array("accumulator", "i8", SUMS, "neurons", "arrived terms: (sum << arrival_bits) + count, or the sum alone; 0 between bursts"),
    Array("second_accumulator", "i8", ("second", *SUMS), "neurons", "more of the same for strategy owned, else null; 0 between bursts"),
    Array("arrivals", "u4", ("apart", *SUMS), "neurons",
          "count of arrived terms where the accumulator cannot, else null; 0 between bursts"),
    Array("input", "f4", ("cell",), "neurons", "staged external potential (FLAG_INJECTED), then the candidate potential (candidate_bits)"),
    Array("fire_potential", "f4", ("cell",), "neurons", "potential at which a neuron of fired_bits fired"),
    Array("candidate_bits", "u4", ("word",), "neurons", "candidates of the last burst, bit j % 32 of word j / 32"),
    Array("tile_count", "u4", ("parity", "tile"), "neurons", "fired neurons of a tile, in bursts of even and odd number by turns"),
    Array("queue", "u4", ("turn", "queue_word"), "neurons",
          "fire queues, burst b in queue b & turn_mask: QUEUE_HEADER words, then fired ids ascending"),
    Array("queue_potential", "f4", ("turn", "cell"), "neurons", "firing potentials, in the order of queue"),
    Array("queue_task", "u8", ("turn", "task"), "tasks", "chunks of its heavy rows: (place in the queue << 32) + number of the chunk"),
    Array("fired_bits", "u4", ("ledger_slot", "word"), "ledger", "fired neurons, burst b in slot b % ledger_slots: the ledger"),
    Array("control", "u8", ("control_cell",), "control", "CONTROL_* cells: where the run stands"),
    Array("rows", "Row", ("neuron",), "rows", "row table: the synapses leaving each neuron"),
    Array("arena", "u1", ("byte",), "rows", "blocks of the rows: targets u32, columns u16, then weights, psps and delays, the wider first"),
    Array("delays", "u2", ("late",), "control", "delays that synapses have, ascending; null where all have one"),
    Array("degenerating_area", "u4", ("degenerating",), "control", "areas whose psps fall as their neurons fire"),
    Array("degeneration", "f4", ("degenerating",), "control", "and by how much"),
    Array("edit_bytes", "u8", (), "control", "bytes of rows read and written by edits"),
)  # fmt: skip

PLASTIC: tuple[Array, ...] = (
    Array("spikes", "Spikes", ("cell",), "plasticity", "when each neuron fired"),
    Array("runs", "u4", ("cell",), "plasticity", "bursts in a row, up to the last one fired in, in which it fired"),
    Array("more_seen", "u4", ("more_windows", "cell"), "plasticity", "as Spikes.seen, for the kinds of windows from 1 on, a neuron each"),
    Array("traces", "u4", ("trace", "cell"), "plasticity", "traces of all spikes up to the last one, kind after kind, a neuron each"),
    Array("history", "u8", ("history", "cell"), "plasticity", "bit k: the neuron fired k bursts before the last one it fired in"),
    Array("older", "u4", ("history", "cell"), "plasticity", "the last burst in which it fired before those; 0: none"),
    Array("open_bits", "u4", ("word",), "plasticity", "sources of window rules that fired within the longest window, and others"),
    Array("visit_bits", "u4", ("word",), "plasticity", "neurons whose rows are visited in this burst"),
    Array("taught_bits", "u4", ("word",), "plasticity", "targets of rules"),
    Array("visits", "u4", ("cell",), "plasticity", "those of them that did not fire, in any order"),
    Array("visit_count", "u4", ("parity",), "plasticity", "how many these are: in even bursts [0], in odd ones [1]"),
    Array("plastic_areas", "PlasticArea", ("area",), "plasticity", "the areas that rules name, from 1 on"),
    Array("pairs", "u4", ("area", "area"), "plasticity", "at [source area * areas + target area]: (first << 8) + count in rules"),
    Array("rules", "Rule", ("rule",), "plasticity", "the rules of one pair of areas after those of another, in their order"),
    Array("windows", "Window", ("window_kind",), "plasticity", "kinds of windows: rules with the same ones share them"),
    Array("trace_kinds", "Trace", ("trace_kind",), "plasticity", "kinds of traces, likewise"),
    Array("decays", "u4", ("decay",), "plasticity", "tables of decay, one after the other"),
    Array("incoming", "Row", ("neuron",), "plasticity",
          "synapses of pair rules by target: rows with sources for targets, slots for weights"),
    Array("incoming_arena", "u1", ("byte",), "plasticity", "blocks of these rows"),
)  # fmt: skip
"""What plasticity keeps, on devices where there is a rule; else null pointers."""

ARRAY = {array.name: array for array in (*ARRAYS, *PLASTIC)}

SCALARS = (
    ("due_queue", "*u4", "fire queue to be delivered in this burst; this and the next four: inside a burst only"),
    ("due_potential", "*f4", "its firing potentials"),
    ("due_task", "*u8", "its tasks"),
    ("next_queue", "*u4", "fire queue that the next burst fills"),
    ("previous_bits", "*u4", "fired bits of the burst before"),
    ("schedule_begin", "*u4", "where the items of burst schedule_first + i begin; one more than schedule_bursts"),
    ("schedule_neuron", "*u4", "items of the schedule by burst, then neuron, then age: whom"),
    ("schedule_potential", "*f4", "and how much; not a number: to be forced"),
    ("schedule_first", "u8", "first burst of the schedule"),
    ("schedule_bursts", "u4", "bursts in the schedule; 0: there is none"),
    ("ledger_reciprocal", "u8", "2^64 - 1 divided by ledger_slots: a division of 64 bits is slow"),
    ("ledger_slots", "u4", "slots of the ledger"),
    ("delay", "u4", "of every synapse, in bursts; where there are several, of those to which due_queue is delivered"),
    ("delay_count", "u4", "length of delays; 0: all synapses have one"),
    ("longest_delay", "u4", "bursts for which spikes are kept"),
    ("turn_mask", "u4", "one less than there are fire queues, a power of two"),
    ("neurons", "u4", "ids reserved"),
    ("words", "u4", "words of a bit set"),
    ("tiles", "u4", "tiles of TILE_NEURONS"),
    ("burst", "u4", "low 32 bits of the burst number; inside a burst only"),
    ("random_seed", "u4", "of the excitability draw"),
    ("weight_bytes", "u4", "1 or 2, or 4 of a float"),
    ("psp_bytes", "u4", "likewise"),
    ("delay_bytes", "u4", "1 or 2"),
    ("real_terms", "u4", "a term is fl32(fl32(weight * p) / k)"),
    ("round_driven", "u4", "the potential that an mp-driven neuron delivers is rounded"),
    ("fraction_bits", "u4", "F of the semantics: 0 or 32"),
    ("strategy", "u4", "of propagation: STRATEGY_*"),
    ("heavy_row", "u4", "a row of more synapses is cut into tasks of at most so many"),
    ("task_room", "u8", "tasks that a queue has room for"),
    ("cell_bits", "u4", "low bits of a 32-bit sum that count arrivals, where a term fits beside them; 0: it does not"),
    ("resident_neurons", "u4", "as many accumulators stay in the cache"),
    ("arrival_bits", "u4", "low bits of an accumulator that count arrivals; 0: arrivals[] does"),
    ("burst_clock", "u4", "refractory_clock is 'burst'"),
    ("reset_candidates", "u4", "reset is 'candidates'"),
    ("degenerating_areas", "u4", "length of degenerating_area"),
    ("rectify_input", "u4", "negative input of accumulating neurons counts as 0"),
    ("potential_floor", "f4", "lowest V"),
    ("potential_ceiling", "f4", "highest V"),
    ("unit", "f4", "contribution_scale * 2^-F"),
    ("power_amount", "f4", "external potential of a power neuron, each burst"),
    ("clock_start", "u4", "low 32 bits of the burst before the first one that plasticity counts"),
    ("areas", "u4", "length of plastic_areas; 0: there is no rule"),
    ("window_kinds", "u4", "length of windows"),
    ("trace_values", "u4", "kinds of traces of all spikes"),
    ("longest_window", "u4", "of all window rules; 0: none"),
    ("rules_now", "u4", "the last burst, as rules count, where what FeagiRules hold back is heeded by edits and listings; else 0"),
    ("rules_shown", "u4", "the burst up to which a listing shows what they did"),
)

STATE_DTYPE = np.dtype(
    [(array.name, "u8") for array in (*ARRAYS, *PLASTIC)] + [(name, "u8" if code[0] == "*" else code) for name, code, _ in SCALARS],
    align=True,
)


def header() -> str:
    """Text of `state.cuh`."""
    lines = ["// Generated from gpu_npu/backends/layout.py; do not edit.", "#pragma once", '#include "types.cuh"', ""]
    lines += [f"#define {name} {value}u" for name, value in CONSTANTS.items()]
    lines += [f"#define POTENTIAL_OF_FORCED {float(POTENTIAL_OF_FORCED)!r}f", ""]
    for struct, fields in STRUCTS.items():
        lines += [f"struct {struct} {{"]
        lines += [f"    {C_TYPES[code]} {name};  // {doc}" for name, code, doc in fields]
        lines += ["};", f'static_assert(sizeof({struct}) == {DTYPES[struct].itemsize}, "{struct} as in layout.py");', ""]
    lines += ["struct State {"]
    lines += [f"    {C_TYPES.get(array.code, array.code)}* {array.name};  // {array.doc}" for array in (*ARRAYS, *PLASTIC)]
    lines += [f"    {C_TYPES[code.lstrip('*')]}{'*' if code[0] == '*' else ''} {name};  // {doc}" for name, code, doc in SCALARS]
    lines += ["};", f'static_assert(sizeof(State) == {STATE_DTYPE.itemsize}, "State as in layout.py");', ""]
    return "\n".join(lines)


def axis_lengths(
    shape: NetworkShape, *, apart: bool, second: bool, heavy_row: int = HEAVY_ROW, arena_bytes: int = 0
) -> dict[str, int]:
    """How long the axes of ARRAYS are for a network of this shape."""
    words = -(-shape.neuron_capacity // WORD_NEURONS)
    return {
        "neuron": shape.neuron_capacity,
        "cell": shape.neuron_capacity,
        "coordinate": 3,
        "slot": 1,
        "channel": 1,
        "second": int(second),
        "apart": int(apart),
        "turn": 1 << shape.longest_delay.bit_length(),
        "parity": 2,
        "word": words,
        "tile": -(-words // TILE_WORDS),
        "queue_word": queue_stride(shape.neuron_capacity),
        "task": task_room(shape.synapse_capacity, heavy_row),
        "ledger_slot": max(shape.ledger_window, 2),  # of this burst and of the one before, at least
        "control_cell": len(CONTROL),
        "byte": arena_bytes,
        "degenerating": 0,
        "late": 0,
    }


def task_room(synapses: int, heavy_row: int) -> int:
    """Tasks of a queue, at most: n synapses in more than one chunk are less than 2 n / heavy_row chunks."""
    return 2 * synapses // heavy_row


def queue_stride(neurons: int) -> int:
    """Words from one queue to the next, as in burst_view.cuh."""
    return -(-(QUEUE_HEADER + neurons) // 4) * 4
