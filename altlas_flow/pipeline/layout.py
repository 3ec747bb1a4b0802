"""Where the boxes of a graph go: columns by depth, few crossings, arrows that pass between boxes.

After Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures", 1981:
layers by longest path, points on long edges, barycentres.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Between boxes of a column, and between columns, in pixels.
GAP, COLUMN_GAP = 22.0, 54.0
#: Height that an arrow takes where it passes a column.
LANE = 12.0
#: Points on long edges; beyond, arrows go straight.
POINTS = 1500
_SWEEPS = 12


@dataclass(frozen=True)
class Drawing:
    """Where everything is, in pixels.

    Attributes
    ----------
    boxes : dict of str to (x, y)
        Upper left corners.
    edges : dict of (str, str) to list of (x, y)
        From the right side of a box by points on its way to the left side of another.
    width, height : float
    """

    boxes: dict[str, tuple[float, float]]
    edges: dict[tuple[str, str], list[tuple[float, float]]]
    width: float
    height: float


#: A box by its name, or a point on an edge in a column.
_Place = str | tuple[str, str, int]


def arrange(needs: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[float, float]]) -> Drawing:
    """Find a place for each box.

    Parameters
    ----------
    needs : mapping of str to sequence of str
        The boxes that each comes after; in an order in which these are there already.
    sizes : mapping of str to (width, height)
    """
    depth: dict[str, int] = {}
    for name, before in needs.items():
        depth[name] = max((depth[one] + 1 for one in before), default=0)
    edges = [(one, name) for name, before in needs.items() for one in before]
    bends = sum(depth[end] - depth[begin] - 1 for begin, end in edges) <= POINTS
    layers: list[list[_Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for name, level in depth.items():
        layers[level].append(name)
    paths: dict[tuple[str, str], list[_Place]] = {}
    left: dict[_Place, list[_Place]] = {}
    right: dict[_Place, list[_Place]] = {}
    for begin, end in edges:
        between: list[_Place] = []
        if bends:
            between = [(begin, end, level) for level in range(depth[begin] + 1, depth[end])]
            for level, point in enumerate(between, depth[begin] + 1):
                layers[level].append(point)
        paths[begin, end] = [begin, *between, end]
        for one, other in pairwise(paths[begin, end]):
            right.setdefault(one, []).append(other)
            left.setdefault(other, []).append(one)
    heights: dict[_Place, float] = {place: LANE for layer in layers for place in layer}
    heights.update({name: size[1] for name, size in sizes.items()})
    _order(layers, left, right)
    middle = _heights(layers, left, right, heights)
    return _draw(layers, paths, middle, sizes)


def _order(
    layers: list[list[_Place]], left: Mapping[_Place, list[_Place]], right: Mapping[_Place, list[_Place]]
) -> None:
    """Sort each column by the mean place of its neighbours, to and fro; keep what crosses least."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, right)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        near = left if forward else right
        for level in range(1, len(layers)) if forward else range(len(layers) - 2, -1, -1):
            place = {one: at for at, one in enumerate(layers[level - 1 if forward else level + 1])}
            means: dict[_Place, float] = {}
            for at, one in enumerate(layers[level]):
                known = [place[other] for other in near.get(one, ()) if other in place]
                means[one] = sum(known) / len(known) if known else float(at)
            layers[level].sort(key=means.__getitem__)
        crossed = _crossings(layers, right)
        if crossed < fewest:
            best, fewest = [list(layer) for layer in layers], crossed
    layers[:] = best


def _crossings(layers: Sequence[Sequence[_Place]], right: Mapping[_Place, list[_Place]]) -> int:
    count = 0
    for layer, following in pairwise(layers):
        place = {one: at for at, one in enumerate(following)}
        seen: list[int] = []
        for one in layer:
            ends = [place[other] for other in right.get(one, ()) if other in place]
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def _heights(
    layers: Sequence[Sequence[_Place]],
    left: Mapping[_Place, list[_Place]],
    right: Mapping[_Place, list[_Place]],
    heights: Mapping[_Place, float],
) -> dict[_Place, float]:
    """The middle of each place: near its neighbours, in its column's order, and not over another."""
    middle: dict[_Place, float] = {}
    for layer in layers:
        _stack(layer, dict.fromkeys(layer, 0.0), heights, middle)
    for sweep in range(_SWEEPS):
        near = left if sweep % 2 == 0 else right
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted: dict[_Place, float] = {}
            for one in layer:
                others = [middle[other] for other in near.get(one, ())]
                wanted[one] = sum(others) / len(others) if others else middle[one]
            _stack(layer, wanted, heights, middle)
    return middle


def _stack(
    layer: Sequence[_Place],
    wanted: Mapping[_Place, float],
    heights: Mapping[_Place, float],
    middle: dict[_Place, float],
) -> None:
    """Put a column's places where they are wanted; groups that would overlap share the difference."""
    groups: list[list[float]] = []  # offset of the first, extent, sum of wanted first places, count
    members: list[list[tuple[_Place, float]]] = []
    for one in layer:
        height = heights[one] + GAP
        groups.append([wanted[one] - height / 2, height, 1.0])
        members.append([(one, height / 2)])
        while len(groups) > 1 and groups[-2][0] + groups[-2][1] > groups[-1][0]:
            begin, extent, count = groups.pop()
            last = members.pop()
            before = groups[-1]
            before[0] = (before[0] * before[2] + (begin - before[1]) * count) / (before[2] + count)
            members[-1] += [(place, offset + before[1]) for place, offset in last]
            before[1] += extent
            before[2] += count
    for (begin, _, _), places in zip(groups, members, strict=True):
        for place, offset in places:
            middle[place] = begin + offset


def _draw(
    layers: Sequence[Sequence[_Place]],
    paths: Mapping[tuple[str, str], Sequence[_Place]],
    middle: Mapping[_Place, float],
    sizes: Mapping[str, tuple[float, float]],
) -> Drawing:
    top = min(middle[name] - size[1] / 2 for name, size in sizes.items())
    top = min(top, *middle.values())
    boxes: dict[str, tuple[float, float]] = {}
    begins: dict[_Place, float] = {}
    ends: dict[_Place, float] = {}
    x = 0.0
    for layer in layers:
        names = [one for one in layer if isinstance(one, str)]
        wide = max(sizes[name][0] for name in names)
        for one in layer:
            own = sizes[one][0] if isinstance(one, str) else wide
            begins[one], ends[one] = x + (wide - own) / 2, x + (wide + own) / 2
            if isinstance(one, str):
                boxes[one] = begins[one], middle[one] - sizes[one][1] / 2 - top
        x += wide + COLUMN_GAP
    edges: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for edge, path in paths.items():
        points = [(ends[path[0]], middle[path[0]] - top)]
        for point in path[1:-1]:
            points += [(begins[point], middle[point] - top), (ends[point], middle[point] - top)]
        edges[edge] = [*points, (begins[path[-1]], middle[path[-1]] - top)]
    bottom = max(boxes[name][1] + size[1] for name, size in sizes.items())
    return Drawing(boxes, edges, x - COLUMN_GAP, max(bottom, *(value - top for value in middle.values())))
