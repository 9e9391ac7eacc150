"""Which column of a table is what, by the names that people use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpu_npu.errors import FileFormatError, NetworkError

_EDGES = {
    "source": (
        "presynapticid presynaptic presynapticneuron prerootid preptrootid prebodyid bodyidpre preid pre prename presyn prenodeid"
        " precell presegid source sourceid sourcename sourceneuron sourceneuronid sourcenodeid src from fromid fromnodeid sender"
        " neuron1 origin"
    ),
    "target": (
        "postsynapticid postsynaptic postsynapticneuron postrootid postptrootid postbodyid bodyidpost postid post postname postsyn"
        " postnodeid postcell postsegid target targetid targetname targetneuron targetneuronid targetnodeid dst dest destination to"
        " toid tonodeid receiver neuron2"
    ),
    "weight": (
        "connectivity syncount synapsecount synapses nsynapses numsynapses numberofsynapses nsyn weight weights weightrelative count"
        " strength synweight nbr numberofconnections"
    ),
    "sign": "excitatory excitation sign",
    "transmitter": "nttype nt neurotransmitter transmitter predictednt topnt neurotransmittertype",
    "type": "type connectiontype synapsetype edgetype",
    "delay": "delay delayms synapticdelay",
}
EDGES = {role: tuple(names.split()) for role, names in _EDGES.items()}
"""Role in an edge list -> names of columns, in lower case, without what is no letter and no digit."""
NEURONS: dict[str, tuple[str, ...]] = {
    "neuron": ("rootid", "ptrootid", "bodyid", "neuronid", "nodeid", "id", "neuron", "name", "label", "flywireid", ""),
}
"""The same of a table of neurons; the index that pandas writes has no name."""

MATRIX_FROM = 6
"""More columns than this without an edge among them may be a matrix."""


def find(names: Sequence[str], given: Mapping[str, str], roles: Mapping[str, tuple[str, ...]], table: str) -> dict[str, int]:
    """Role -> number of its column, from 0. given: columns by role, named or by their number from 1.

    FileFormatError: two columns may be meant. NetworkError: a role or a column that is not there.
    """
    found = {}
    for role in given:
        if role not in roles:
            raise NetworkError(f"{role!r} is nothing that a column of this table can be; these are: {', '.join(roles)}")
    for role, known in roles.items():
        if role in given:
            found[role] = _named(names, given[role], table)
            continue
        candidates = [i for i, name in enumerate(names) if plain(name) in known]
        if role == "neuron" and len(candidates) > 1:
            candidates = sorted(candidates, key=lambda i: known.index(plain(names[i])))[:1]
        if len(candidates) > 1:
            shown, first = " and ".join(repr(names[i]) for i in candidates), _one(names, candidates[0])
            raise FileFormatError(f"{table}: {shown} may each be the {role}; --column {role}={first} takes one of them")
        if candidates and candidates[0] not in found.values():
            found[role] = candidates[0]
    return found


def needed(found: Mapping[str, int], names: Sequence[str], table: str, *roles: str) -> None:
    """FileFormatError that says how to name the columns of these roles, where one was not found."""
    lost = [role for role in roles if role not in found]
    if lost:
        numbered = list(names) == [str(i + 1) for i in range(len(names))]
        options = " ".join(f"--column {role}={i + 1 if numbered else 'NAME'}" for i, role in enumerate(lost))
        shown = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
        has = f"none has a name; {options} takes them in this order" if numbered else f"it has {shown}; {options} says it"
        if len(lost) == len(roles) and any(name and plain(name) in NEURONS["neuron"] for name in names):
            has += "; a table of neurons is given as --annotations, beside that of their edges"
        elif len(lost) == len(roles) and len(names) > MATRIX_FROM:
            has += "; a matrix is read from .npy, .npz and .mat"
        raise FileFormatError(f"{table}: which column is the {' and which the '.join(lost)}? {has}", python="columns={...} says it")


def _one(names: Sequence[str], i: int) -> str:
    """How an option names a column: by its number, where another has the same name or it has none."""
    return names[i] if names[i] and list(names).count(names[i]) == 1 else str(i + 1)


def plain(name: str) -> str:
    """A name in lower case, without what is no letter and no digit."""
    return re.sub(r"[\W_]+", "", name.lower())


def _named(names: Sequence[str], name: str, table: str) -> int:
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name) - 1
    shown = ", ".join(repr(one) for one in names[:20])
    raise NetworkError(f"{table}: there is no column {name!r}; it has {shown}")
