"""Which groups go to the validation part: first by need, then repaired, then improved.

The deviation of a column is what the validation part holds of it less
its share of the whole; the cost is the weighted sum of squared deviations.

Letters: M images, K classes, G groups, F columns = 2 K + 2. The columns are the images of each
class (column 0: images without boxes), all images, and the boxes of each class.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Bool, Float64, Int64

# Of one per column of a class: the size of the parts is wished for more than any single share.
_WEIGHT_OF_SIZE = 10.0


class Holdings:
    """How many images and boxes of each class each group holds, crowd boxes left out."""

    def __init__(self, annotations: Annotations, groups: Int64) -> None:
        self.num_classes = annotations.categories.num_classes
        self.num_groups = int(groups.max(initial=-1)) + 1
        counted = ~annotations.is_crowd
        images, labels = annotations.image_index[counted], annotations.labels[counted]
        pairs = np.unique(images * self.num_classes + labels)
        empty = np.setdiff1d(np.arange(annotations.num_images), images)
        keys = np.concatenate(
            [
                groups[empty] * self.width,
                groups[pairs // self.num_classes] * self.width + pairs % self.num_classes,
                groups * self.width + self.num_classes,
                groups[images] * self.width + self.num_classes + labels,
            ]
        )
        entries, counts = np.unique(keys, return_counts=True)
        self.columns, self.values = entries % self.width, counts.astype(np.float64)
        sizes = np.bincount(entries // self.width, minlength=self.num_groups)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def width(self) -> int:
        """F, the number of columns."""
        return 2 * self.num_classes

    @property
    def num_shown(self) -> int:
        """K + 2: the first columns, which count images: what both parts should show."""
        return self.num_classes + 1

    @cached_property
    def group(self) -> Int64:
        """int64, the group of each entry."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.starts))

    @cached_property
    def groups_with(self) -> Int64:
        """int64 [F], how many groups hold something of each column."""
        return np.bincount(self.columns, minlength=self.width)

    @cached_property
    def weights(self) -> Float64:
        """float64 [F], which make each column's mean squared deviation 1 in a random split."""
        squares = _sums(self.columns, self.values**2, self.width)
        weights = np.where(squares > 0, 1 / np.maximum(squares, 1), 0.0)
        weights[self.num_classes] *= _WEIGHT_OF_SIZE
        return weights

    @cached_property
    def own_cost(self) -> Float64:
        """float64 [G], the weighted squares of what each group holds."""
        return self.sums(self.values * self.weights[self.columns])

    def of(self, group: int) -> tuple[Int64, Float64]:
        """Return the columns and values of a group."""
        part = slice(self.starts[group], self.starts[group + 1])
        return self.columns[part], self.values[part]

    def shown_by(self, group: int) -> Int64:
        """Return those columns of a group that count images."""
        columns = self.of(group)[0]
        return columns[: np.searchsorted(columns, self.num_shown)]

    def sums(self, factors: Float64) -> Float64:
        """Return float64 [G], the sum of values * factors over the entries of each group."""
        return _sums(self.group, self.values * factors, self.num_groups)

    def totals(self, chosen: Bool) -> Float64:
        """Return float64 [F], what the chosen groups (bool [G]) hold together."""
        entries = chosen[self.group]
        return _sums(self.columns[entries], self.values[entries], self.width)

    def dense(self) -> Float64:
        """Return float64 [G, F], the whole matrix; for few groups."""
        matrix = np.zeros((self.num_groups, self.width))
        matrix[self.group, self.columns] = self.values
        return matrix


def _sums(index: Int64, values: Float64, length: int) -> Float64:
    """Sum the values of each index; without any, zeros of the same type."""
    return np.bincount(index, values, minlength=length).astype(np.float64)


_FEW_GROUPS = 2000  # up to here all exchanges of two groups are tried: 32 MB and milliseconds each
_CHEAP_GROUPS = 500  # up to here a round takes a fraction of a second
_ROUNDS = 5
_PASSES = 20  # over all groups; the cost hardly falls after three
_TRIED = 64  # best exchanges to look at before giving up, where a side would lose a class
_CANDIDATES = 200
_NOISE = 0.2
_EPSILON = 1e-12


def choose_groups(holdings: Holdings, val_share: float, seed: int) -> Bool:
    """Choose the groups of the validation part.

    Source: the order by the rarest class is that of iterative stratification, Sechidis, Tsoumakas,
    Vlahavas, On the stratification of multi-label data, ECML PKDD 2011, algorithm 1. Differs: units
    are groups, a group is weighed by all that it holds and not by its rarest class alone, boxes
    count beside images, and steps 1, 3 and 4.
    """
    rng = np.random.default_rng(seed)
    rounds = [
        _Choice(holdings, val_share, rng)
        for _ in range(_ROUNDS if holdings.num_groups <= _CHEAP_GROUPS else 1)
    ]
    for choice in rounds:
        choice.deal()
        choice.repair()
        if holdings.num_groups <= _FEW_GROUPS:
            choice.exchange()
        else:
            choice.improve()
    return min(rounds, key=_Choice.quality).is_val


class _Choice:
    """The sides chosen so far, with what decides about the next move kept up to date."""

    def __init__(self, holdings: Holdings, val_share: float, rng: np.random.Generator) -> None:
        self.holdings, self.val_share, self.rng = holdings, val_share, rng
        self.is_val: Bool = np.zeros(holdings.num_groups, dtype=np.bool_)
        of_class = (holdings.columns > 0) & (holdings.columns < holdings.num_classes)
        lone = of_class & (holdings.groups_with[holdings.columns] == 1)
        self.is_pinned: Bool = np.zeros(holdings.num_groups, dtype=np.bool_)
        self.is_pinned[holdings.group[lone]] = True
        self.needed: Bool = holdings.groups_with[: holdings.num_shown] >= 2

    def deal(self) -> None:
        """Give each group its first side (step 2)."""
        held, share = self.holdings, self.val_share
        rarest = np.full(held.num_groups, np.iinfo(np.int64).max)
        of_class = held.columns < held.num_classes
        columns = held.columns[of_class]
        np.minimum.at(
            rarest, held.group[of_class], held.groups_with[columns] * held.width + columns
        )
        order = np.lexsort((self.rng.random(held.num_groups), -held.own_cost, rarest))
        deviation = -share * held.totals(self.is_pinned)
        for group in order[~self.is_pinned[order]].tolist():
            columns, values = held.of(group)
            weighted = values * held.weights[columns]
            # The cost with the group in validation less that with it in training.
            extra = 2 * (deviation[columns] @ weighted) + (1 - 2 * share) * held.own_cost[group]
            self.is_val[group] = extra < 0
            deviation[columns] += values * (self.is_val[group] - share)
        self._recount()

    def repair(self) -> None:
        """Show on both sides what can be (step 3); keeps the best of all tried."""
        best, fewest = self.is_val.copy(), int(self._missing().sum())
        steps = 100 + 50 * fewest
        while fewest and steps:
            steps -= 1
            column = self.rng.choice(np.flatnonzero(self._missing()))
            candidates = self._free_groups_with(int(column))
            if not len(candidates):
                self.needed[column] = False
                fewest = int(self._missing(best).sum())
                continue
            group = int(candidates[0])
            if self.rng.random() >= _NOISE:
                group = min(candidates.tolist(), key=self._rank)
            self._move(group)
            missing = int(self._missing().sum())
            if missing < fewest:
                best, fewest = self.is_val.copy(), missing
        self.is_val = best
        self._recount()

    def improve(self) -> None:
        """Move groups one by one while the cost falls (step 4, for many groups)."""
        for _ in range(_PASSES):
            costs = self._costs_of_moves()
            order = np.argsort(costs, kind="stable")
            moved = False
            for group in order[costs[order] < -_EPSILON].tolist():
                if self._cost_of_move(group) < -_EPSILON and not self._loses(group, None):
                    self._move(group)
                    moved = True
            if not moved:
                return

    def exchange(self) -> None:
        """Move or exchange groups, always the best there is (step 4, for few groups)."""
        rows = self.holdings.dense() * np.sqrt(self.holdings.weights)
        products = rows @ rows.T
        for _ in range(10 * self.holdings.num_groups):
            costs = np.append(self._costs_of_moves(), 0.0)
            # The last of each side is no group at all: then the other one only moves.
            free = ~self.is_pinned
            left = np.append(np.flatnonzero(free & ~self.is_val), -1)
            right = np.append(np.flatnonzero(free & self.is_val), -1)
            both = costs[left][:, None] + costs[right]
            both[:-1, :-1] -= 2 * products[np.ix_(left[:-1], right[:-1])]
            flat = both.ravel()
            tried = np.argpartition(flat, min(_TRIED, flat.size) - 1)[:_TRIED]
            for position in tried[np.argsort(flat[tried], kind="stable")]:
                pair = left[position // len(right)], right[position % len(right)]
                first, second = (int(group) if group >= 0 else None for group in pair)
                if flat[position] >= -_EPSILON:
                    return
                if not self._loses(first, second) and not self._loses(second, first):
                    for group in (first, second):
                        if group is not None:
                            self._move(group)
                    break
            else:
                return

    def quality(self) -> tuple[int, float]:
        """How many classes a side lacks, and the cost; less is better."""
        cost = self.holdings.weights @ self.deviation**2
        return int(self._missing().sum()), float(cost)

    def _recount(self) -> None:
        held = self.holdings
        totals = held.totals(self.is_val)
        everything = held.totals(np.ones_like(self.is_val))
        self.deviation: Float64 = totals - self.val_share * everything
        self.shown = self._groups_shown(self.is_val)

    def _groups_shown(self, is_val: Bool) -> Int64:
        """int64 [2, K + 2], how many groups of each side show a column."""
        held = self.holdings
        shown = np.zeros((2, held.num_shown), dtype=np.int64)
        entries = held.columns < held.num_shown
        sides = is_val[held.group[entries]].astype(np.int64)
        np.add.at(shown, (sides, held.columns[entries]), 1)
        return shown

    def _missing(self, is_val: Bool | None = None) -> Bool:
        shown = self.shown if is_val is None else self._groups_shown(is_val)
        missing: Bool = self.needed & (shown == 0).any(axis=0)
        return missing

    def _free_groups_with(self, column: int) -> Int64:
        """Some groups that could change sides, in random order."""
        held = self.holdings
        groups = held.group[held.columns == column]
        groups = self.rng.permutation(groups[~self.is_pinned[groups]])
        return groups[:_CANDIDATES]

    def _rank(self, group: int) -> tuple[int, float]:
        """What a move of a group leaves missing, then its cost; less is better."""
        columns = self.holdings.shown_by(group)
        columns = columns[self.needed[columns]]
        side = int(self.is_val[group])
        lost = (self.shown[side, columns] == 1).sum()
        gained = (self.shown[1 - side, columns] == 0).sum()
        return int(lost - gained), self._cost_of_move(group)

    def _loses(self, leaving: int | None, coming: int | None) -> bool:
        """Whether a side would no longer show something once a group leaves it for another."""
        if leaving is None:
            return False
        columns = self.holdings.shown_by(leaving)
        alone = self.shown[int(self.is_val[leaving]), columns] == 1
        last = columns[alone & self.needed[columns]]
        if coming is None or not len(last):
            return bool(len(last))
        return not np.isin(last, self.holdings.shown_by(coming)).all()

    def _costs_of_moves(self) -> Float64:
        """float64 [G], how the cost changes when a group changes sides; inf where it must not."""
        held = self.holdings
        toward = held.sums((held.weights * self.deviation)[held.columns])
        costs = np.where(self.is_val, -2.0, 2.0) * toward + held.own_cost
        costs[self.is_pinned] = np.inf
        return costs

    def _cost_of_move(self, group: int) -> float:
        held = self.holdings
        columns, values = held.of(group)
        toward = (self.deviation[columns] * held.weights[columns]) @ values
        return float((-2 if self.is_val[group] else 2) * toward + held.own_cost[group])

    def _move(self, group: int) -> None:
        side = int(self.is_val[group])
        columns, values = self.holdings.of(group)
        self.deviation[columns] += (1 - 2 * side) * values
        shown = self.holdings.shown_by(group)
        self.shown[side, shown] -= 1
        self.shown[1 - side, shown] += 1
        self.is_val[group] = not side
