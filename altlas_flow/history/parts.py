"""Parts: tasks of one client that ended in one way, as columns, and the rows they make."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from altlas_flow.history.rows import ERROR_LIMIT, Row, cut

#: Units of a row's times in a second.
MICRO = 1_000_000


@dataclass(slots=True)
class Part:
    """Tasks of one client that ended in one way.

    Attributes
    ----------
    client : str
    at : float
        When it was told, seconds since 1970.
    columns : mapping
        As the client told them. Lists: ids, submitted, started (seconds before `at`), and tries, unless
        that is one number for all. The same for all: model, node, status, ended, error.
    """

    client: str
    at: float
    columns: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.columns["ids"])

    def rows(self) -> Iterator[Row]:
        """Each task's row, with its checksum. What clients sent may be anything: this may raise anything."""
        said, at = self.columns, self.at
        model, node, client = cut(str(said["model"])), cut(said["node"]), cut(self.client)
        status, error = cut(str(said["status"])), cut(said["error"], ERROR_LIMIT)
        ended = int((at - said["ended"]) * MICRO)
        tries = said["tries"]
        several = tries if isinstance(tries, (list, tuple)) else [tries] * len(self)
        # what `rows.checksum` sees of a row; most of it is the same for all of a part
        before, between = f"\x1f{model}\x1f{client}\x1f{status}\x1f", f"\x1f{ended}\x1f{node}\x1f"
        crc = zlib.crc32
        columns = zip(said["ids"], said["submitted"], said["started"], several, strict=True)
        for task, ago, since, many in columns:
            name, count = cut(str(task)), int(many)
            submitted = int((at - ago) * MICRO)
            started = None if since is None else int((at - since) * MICRO)
            text = f"{name}{before}{submitted}\x1f{started}{between}{count}\x1f{error}"
            check = crc(text.encode())
            yield (name, model, client, status, submitted, started, ended, node, count, error, check)

    def row(self, at: int) -> Row:
        """The task at a place, without its checksum: for a few of many. It may raise anything, too."""
        said = self.columns
        ago, since, tries = said["submitted"][at], said["started"][at], said["tries"]
        return (
            cut(str(said["ids"][at])),
            cut(str(said["model"])),
            cut(self.client),
            cut(str(said["status"])),
            int((self.at - ago) * MICRO),
            None if since is None else int((self.at - since) * MICRO),
            int((self.at - said["ended"]) * MICRO),
            cut(said["node"]),
            int(tries[at] if isinstance(tries, (list, tuple)) else tries),
            cut(said["error"], ERROR_LIMIT),
        )
